import asyncio
import pickle
import subprocess
import sys
from unittest.mock import Mock

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode

from tests.support.llama_index_clients import make_embedder, no_swallowed_faults
from token_handlers import shared_counter, track_tokens
from token_handlers.llama_index import LlamaIndexTokenHandler, pipelines, workers
from token_handlers.llama_index.handler import Messenger
from token_handlers.usage import Usage, UsageRecord


@pytest.fixture(autouse=True)
def _no_faults():
    """No fault is swallowed by LlamaIndex's dispatcher, and nothing stays lent to a pipeline."""
    with no_swallowed_faults():
        yield
    assert {} == pipelines._lent


NODES = [TextNode(text=f"{number} one two three") for number in range(4)]


def test_what_workers_embed_comes_home(ledger):
    """Workers reach the scope's counter, its labels and sinks, the handler's counter and the shared one, once."""
    handler, records = LlamaIndexTokenHandler(), []
    model = make_embedder(ledger, callback_manager=CallbackManager([handler]))
    before = shared_counter().embedding_tokens
    with track_tokens(session="s", sinks=[records.append]) as counter:
        IngestionPipeline(transformations=[model], disable_cache=True).run(nodes=list(NODES), num_workers=2)

    billed = ledger.total().embedding_tokens
    assert billed == counter.embedding_tokens == handler.embedding_tokens > 0
    assert billed == shared_counter().embedding_tokens - before
    assert (2, 0) == (counter.successful_requests, counter.estimated_requests)
    assert [("s", "text-embedding-3-small")] * 2 == [(record.session, record.model) for record in records]
    assert [handler] == model.callback_manager.handlers


def test_a_scope_alone_sees_workers(ledger):
    """No handler is needed: the pipeline's models carry a messenger while it runs, and nothing afterwards."""
    model = make_embedder(ledger, callback_manager=CallbackManager([]))
    pipeline = IngestionPipeline(transformations=[model], disable_cache=True)

    async def embed():
        with track_tokens() as counter:
            await pipeline.arun(nodes=list(NODES), num_workers=2)
        return counter

    handlers = model.callback_manager.handlers
    counter = asyncio.run(embed())

    assert ledger.total().embedding_tokens == counter.embedding_tokens > 0
    assert handlers is model.callback_manager.handlers
    assert [] == handlers


def record(event_id="e", tokens=3):
    """Return an embedding's record, as a worker sends it."""
    return UsageRecord(usage=Usage(input_tokens=tokens), model="m", operation="embeddings", event_id=event_id)


def test_a_record_comes_home_once():
    """Two handlers that saw one call, and a record that is sent twice, count once."""
    handler = LlamaIndexTokenHandler()
    with track_tokens() as counter:
        messenger = Messenger()
    senders = [workers.Sender(workers.address_of(handler, handler.counter)), workers.Sender(messenger._address)]
    for sender in (*senders, *senders):
        sender(record("one-call"))

    assert (3, 3) == (counter.embedding_tokens, handler.embedding_tokens)


def test_an_unreachable_home_costs_one_warning(caplog, monkeypatch):
    """A worker whose home is gone goes on, and says so once."""
    monkeypatch.setattr(workers, "_SECONDS", 0.1)
    sender = workers.Sender(workers.HomeAddress("/nowhere/at-all", b"key", "target"))
    sender(record())
    sender(record())

    assert 1 == caplog.text.count("can't reach its home")


def test_an_unknown_target_is_ignored():
    """A record for a handler that is long gone is dropped."""
    handler = LlamaIndexTokenHandler()
    address = workers.address_of(handler, handler.counter)
    workers.Sender(address._replace(target="gone"))(record("late"))

    assert 0 == handler.embedding_tokens


def test_addresses_are_not_made_again():
    """Pickling a handler often, as LlamaIndex does, leaves one entry, and there are never more than some hundred."""
    handler = LlamaIndexTokenHandler()
    first = workers.address_of(handler, handler.counter)
    assert first == workers.address_of(handler, handler.counter)
    others = [LlamaIndexTokenHandler() for _ in range(workers._MOST_TARGETS)]
    for other in others:
        workers.address_of(other, other.counter)

    assert workers._MOST_TARGETS == len(workers._targets)
    assert workers.handler_at_home(first) is None


def test_a_pickle_without_its_home():
    """Where no home answers, a handler still arrives, and never raises: a pool would hang for ever."""
    state = pickle.dumps(LlamaIndexTokenHandler())
    code = "import pickle, sys; print(type(pickle.loads(sys.stdin.buffer.read())).__name__)"
    done = subprocess.run([sys.executable, "-c", code], input=state, capture_output=True, check=True)

    assert b"LlamaIndexTokenHandler" == done.stdout.strip()


def test_a_forked_worker_has_told_the_sinks():
    """A forked worker has its home's sinks, and calls them itself."""
    sink = Mock()
    with track_tokens(sinks=[sink]) as counter:
        address = Messenger()._address
    sender = workers.Sender(address)
    sender._forked = True
    sender(record("forked"))

    assert 3 == counter.embedding_tokens
    sink.assert_not_called()
