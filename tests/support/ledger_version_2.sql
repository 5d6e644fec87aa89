PRAGMA application_id = 1414482764;
PRAGMA user_version = 2;
PRAGMA journal_mode = WAL;
CREATE TABLE rollup_32days (
  apart INTEGER NOT NULL,
  label TEXT NOT NULL,
  bucket INTEGER NOT NULL,
  value TEXT NOT NULL,
  model TEXT NOT NULL,
  provider TEXT NOT NULL,
  operation TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  prompt_tokens_cached INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  embedding_tokens INTEGER NOT NULL,
  successful_requests INTEGER NOT NULL,
  failed_requests INTEGER NOT NULL,
  cached_responses INTEGER NOT NULL,
  estimated_requests INTEGER NOT NULL,
  unpriced_requests INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  cost_nano INTEGER NOT NULL,
  cost_atto INTEGER NOT NULL,
  saved_nano INTEGER NOT NULL,
  saved_atto INTEGER NOT NULL,
  PRIMARY KEY (apart, label, bucket, value, model, provider, operation)
) STRICT, WITHOUT ROWID
;
INSERT INTO "rollup_32days" VALUES(0,'',641,'','','','',100,50,0,40,0,7,2,0,1,1,1,1,21300000,0,500000000,0);
INSERT INTO "rollup_32days" VALUES(0,'',642,'','','','',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
INSERT INTO "rollup_32days" VALUES(0,'',91653,'','','','',1000000000000000,0,0,0,0,0,1,0,0,0,0,1,1000000000,0,0,0);
INSERT INTO "rollup_32days" VALUES(0,'langgraph_node',641,'agent','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(0,'tag:beta',641,'true','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(0,'tag:team',641,'blue','','','',0,0,0,0,0,0,0,0,1,0,0,0,0,0,500000000,0);
INSERT INTO "rollup_32days" VALUES(0,'tag:team',641,'red','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(0,'user',641,'u','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(0,'user',642,'u','','','',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'',641,'','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'',641,'','gpt-4o','','chat',0,0,0,0,0,0,0,0,1,0,0,0,0,0,500000000,0);
INSERT INTO "rollup_32days" VALUES(1,'',641,'','text-embedding-3-small','','embeddings',0,0,0,0,0,7,1,0,0,1,1,0,0,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'',642,'','gpt-4o','','chat',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'',91653,'','gpt-4o','','chat',1000000000000000,0,0,0,0,0,1,0,0,0,0,1,1000000000,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'langgraph_node',641,'agent','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'session',641,'s','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'session',641,'s','text-embedding-3-small','','embeddings',0,0,0,0,0,7,1,0,0,1,1,0,0,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'session',91653,'absurd','gpt-4o','','chat',1000000000000000,0,0,0,0,0,1,0,0,0,0,1,1000000000,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'tag:beta',641,'true','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'tag:team',641,'blue','gpt-4o','','chat',0,0,0,0,0,0,0,0,1,0,0,0,0,0,500000000,0);
INSERT INTO "rollup_32days" VALUES(1,'tag:team',641,'red','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'user',641,'u','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_32days" VALUES(1,'user',642,'u','gpt-4o','','chat',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
CREATE TABLE rollup_day (
  apart INTEGER NOT NULL,
  label TEXT NOT NULL,
  bucket INTEGER NOT NULL,
  value TEXT NOT NULL,
  model TEXT NOT NULL,
  provider TEXT NOT NULL,
  operation TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  prompt_tokens_cached INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  embedding_tokens INTEGER NOT NULL,
  successful_requests INTEGER NOT NULL,
  failed_requests INTEGER NOT NULL,
  cached_responses INTEGER NOT NULL,
  estimated_requests INTEGER NOT NULL,
  unpriced_requests INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  cost_nano INTEGER NOT NULL,
  cost_atto INTEGER NOT NULL,
  saved_nano INTEGER NOT NULL,
  saved_atto INTEGER NOT NULL,
  PRIMARY KEY (apart, label, bucket, value, model, provider, operation)
) STRICT, WITHOUT ROWID
;
INSERT INTO "rollup_day" VALUES(0,'',20516,'','','','',100,50,0,40,0,0,1,0,1,0,0,1,21300000,0,500000000,0);
INSERT INTO "rollup_day" VALUES(0,'',20517,'','','','',0,0,0,0,0,7,1,0,0,1,1,0,0,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'',20556,'','','','',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'',2932897,'','','','',1000000000000000,0,0,0,0,0,1,0,0,0,0,1,1000000000,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'langgraph_node',20516,'agent','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'session',20516,'s','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'session',20517,'s','','','',0,0,0,0,0,7,1,0,0,1,1,0,0,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'session',2932897,'absurd','','','',1000000000000000,0,0,0,0,0,1,0,0,0,0,1,1000000000,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'tag:beta',20516,'true','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'tag:team',20516,'blue','','','',0,0,0,0,0,0,0,0,1,0,0,0,0,0,500000000,0);
INSERT INTO "rollup_day" VALUES(0,'tag:team',20516,'red','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'user',20516,'u','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_day" VALUES(0,'user',20556,'u','','','',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
INSERT INTO "rollup_day" VALUES(1,'',20516,'','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_day" VALUES(1,'',20516,'','gpt-4o','','chat',0,0,0,0,0,0,0,0,1,0,0,0,0,0,500000000,0);
INSERT INTO "rollup_day" VALUES(1,'',20517,'','text-embedding-3-small','','embeddings',0,0,0,0,0,7,1,0,0,1,1,0,0,0,0,0);
INSERT INTO "rollup_day" VALUES(1,'',20556,'','gpt-4o','','chat',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
INSERT INTO "rollup_day" VALUES(1,'',2932897,'','gpt-4o','','chat',1000000000000000,0,0,0,0,0,1,0,0,0,0,1,1000000000,0,0,0);
INSERT INTO "rollup_day" VALUES(1,'langgraph_node',20516,'agent','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_day" VALUES(1,'tag:beta',20516,'true','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_day" VALUES(1,'tag:team',20516,'blue','gpt-4o','','chat',0,0,0,0,0,0,0,0,1,0,0,0,0,0,500000000,0);
INSERT INTO "rollup_day" VALUES(1,'tag:team',20516,'red','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
CREATE TABLE rollup_hour (
  apart INTEGER NOT NULL,
  label TEXT NOT NULL,
  bucket INTEGER NOT NULL,
  value TEXT NOT NULL,
  model TEXT NOT NULL,
  provider TEXT NOT NULL,
  operation TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL,
  prompt_tokens_cached INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  embedding_tokens INTEGER NOT NULL,
  successful_requests INTEGER NOT NULL,
  failed_requests INTEGER NOT NULL,
  cached_responses INTEGER NOT NULL,
  estimated_requests INTEGER NOT NULL,
  unpriced_requests INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  cost_nano INTEGER NOT NULL,
  cost_atto INTEGER NOT NULL,
  saved_nano INTEGER NOT NULL,
  saved_atto INTEGER NOT NULL,
  PRIMARY KEY (apart, label, bucket, value, model, provider, operation)
) STRICT, WITHOUT ROWID
;
INSERT INTO "rollup_hour" VALUES(0,'',492396,'','','','',100,50,0,40,0,0,1,0,1,0,0,1,21300000,0,500000000,0);
INSERT INTO "rollup_hour" VALUES(0,'',492420,'','','','',0,0,0,0,0,7,1,0,0,1,1,0,0,0,0,0);
INSERT INTO "rollup_hour" VALUES(0,'',493356,'','','','',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
INSERT INTO "rollup_hour" VALUES(0,'',70389539,'','','','',1000000000000000,0,0,0,0,0,1,0,0,0,0,1,1000000000,0,0,0);
INSERT INTO "rollup_hour" VALUES(0,'langgraph_node',492396,'agent','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_hour" VALUES(0,'tag:beta',492396,'true','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_hour" VALUES(0,'tag:team',492396,'blue','','','',0,0,0,0,0,0,0,0,1,0,0,0,0,0,500000000,0);
INSERT INTO "rollup_hour" VALUES(0,'tag:team',492396,'red','','','',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_hour" VALUES(1,'',492396,'','claude-sonnet-4-5','anthropic','chat',100,50,0,40,0,0,1,0,0,0,0,1,21300000,0,0,0);
INSERT INTO "rollup_hour" VALUES(1,'',492396,'','gpt-4o','','chat',0,0,0,0,0,0,0,0,1,0,0,0,0,0,500000000,0);
INSERT INTO "rollup_hour" VALUES(1,'',492420,'','text-embedding-3-small','','embeddings',0,0,0,0,0,7,1,0,0,1,1,0,0,0,0,0);
INSERT INTO "rollup_hour" VALUES(1,'',493356,'','gpt-4o','','chat',0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0);
INSERT INTO "rollup_hour" VALUES(1,'',70389539,'','gpt-4o','','chat',1000000000000000,0,0,0,0,0,1,0,0,0,0,1,1000000000,0,0,0);
CREATE TABLE usage_event (
  id INTEGER PRIMARY KEY,
  event_id TEXT NOT NULL UNIQUE,
  ts_ms INTEGER NOT NULL,
  ended_ms INTEGER,
  session TEXT,
  user TEXT,
  node TEXT,
  tags TEXT,
  model TEXT,
  provider TEXT,
  operation TEXT NOT NULL,
  outcome TEXT NOT NULL,
  source TEXT NOT NULL,
  method TEXT,
  requests INTEGER NOT NULL,
  cost_nano INTEGER,
  cost_atto INTEGER,
  cost_source TEXT,
  saved_nano INTEGER,
  saved_atto INTEGER,
  input_tokens INTEGER,
  output_tokens INTEGER,
  cache_read_tokens INTEGER,
  cache_write_tokens INTEGER,
  cache_write_5m_tokens INTEGER,
  cache_write_1h_tokens INTEGER,
  reasoning_tokens INTEGER,
  input_audio_tokens INTEGER,
  output_audio_tokens INTEGER,
  cache_audio_read_tokens INTEGER,
  input_image_tokens INTEGER,
  output_image_tokens INTEGER,
  input_video_tokens INTEGER,
  output_citation_tokens INTEGER,
  web_searches INTEGER,
  social_searches INTEGER,
  storage_searches INTEGER,
  code_executions INTEGER,
  rerank_searches INTEGER
) STRICT
;
INSERT INTO "usage_event" VALUES(1,'chat',1772625600000,1772625602000,'s','u','agent','{"team":"red","beta":"true"}','claude-sonnet-4-5','anthropic','chat','success','reported',NULL,1,21300000,0,'genai-prices',NULL,NULL,100,50,NULL,40,NULL,30,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,2,NULL,NULL,NULL,NULL);
INSERT INTO "usage_event" VALUES(2,'embedding',1772712000000,NULL,'s',NULL,NULL,NULL,'text-embedding-3-small',NULL,'embeddings','success','estimated',NULL,1,NULL,NULL,NULL,NULL,NULL,7,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "usage_event" VALUES(3,'failed',1776081600000,NULL,NULL,'u',NULL,NULL,'gpt-4o',NULL,'chat','failed','reported',NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "usage_event" VALUES(4,'cached',1772625600000,NULL,NULL,NULL,NULL,'{"team":"blue"}','gpt-4o',NULL,'chat','cached','reported',NULL,1,NULL,NULL,NULL,500000000,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "usage_event" VALUES(5,'absurd',253402343940000,-62135640000000,'absurd',NULL,NULL,NULL,'gpt-4o',NULL,'chat','success','reported',NULL,1,1000000000,0,NULL,NULL,NULL,1000000000000000,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE usage_outbox (id INTEGER PRIMARY KEY) STRICT;
CREATE INDEX usage_event_time ON usage_event (ts_ms);
CREATE INDEX usage_event_session ON usage_event (session, ts_ms) WHERE session IS NOT NULL;
CREATE INDEX usage_event_user ON usage_event (user, ts_ms) WHERE user IS NOT NULL;
CREATE VIEW usage_measure AS SELECT
  id, ts_ms, session, user, node, tags,
  coalesce(nullif(model, ''), '(unknown)') AS model,
  coalesce(provider, '') AS provider,
  operation,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(input_tokens, 0), 0) AS prompt_tokens,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(output_tokens, 0), 0) AS completion_tokens,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(cache_read_tokens, 0), 0) AS prompt_tokens_cached,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(cache_write_tokens, 0), 0) AS cache_write_tokens,
  iif(outcome = 'success' AND operation <> 'embeddings', coalesce(reasoning_tokens, 0), 0) AS reasoning_tokens,
  iif(outcome = 'success' AND operation = 'embeddings', coalesce(input_tokens, 0), 0) AS embedding_tokens,
  iif(outcome = 'success' AND source <> 'manual', requests, 0) AS successful_requests,
  iif(outcome = 'failed', requests, 0) AS failed_requests,
  iif(outcome = 'cached', requests, 0) AS cached_responses,
  iif(outcome = 'success' AND source = 'estimated', requests, 0) AS estimated_requests,
  iif(outcome = 'success' AND source <> 'manual' AND cost_nano IS NULL, requests, 0) AS unpriced_requests,
  iif(outcome = 'success' AND cost_nano IS NOT NULL, 1, 0) AS priced,
  iif(outcome = 'success', coalesce(cost_nano, 0), 0) AS cost_nano,
  iif(outcome = 'success', coalesce(cost_atto, 0), 0) AS cost_atto,
  iif(outcome = 'cached', coalesce(saved_nano, 0), 0) AS saved_nano,
  iif(outcome = 'cached', coalesce(saved_atto, 0), 0) AS saved_atto
FROM usage_event;
