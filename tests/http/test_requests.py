import json

import httpx
import httpx2
import pytest

from token_handlers.http import BilledTool
from token_handlers.http.requests import endpoint_of, provider_of, read_endpoint, read_request

TEXT = {"role": "user", "content": "secret"}
CHAT = {"model": "gpt-4o", "messages": [TEXT]}

KNOWN = [
    ("api.openai.com/v1/chat/completions", CHAT, "chat", "chat", "openai", "gpt-4o"),
    ("eu.api.openai.com/v1/chat/completions", CHAT, "chat", "chat", "openai", "gpt-4o"),
    (
        "x.openai.azure.com/openai/deployments/mine/chat/completions?api-version=1",
        {"messages": [TEXT]},
        "chat", "chat", "azure", "mine",
    ),
    ("api.openai.com/v1/completions", {"model": "m", "prompt": "a"}, "completions", "text_completion", "openai", "m"),
    ("api.mistral.ai/v1/fim/completions", {"prompt": "a"}, "completions", "text_completion", "mistral", None),
    ("api.mistral.ai/v1/conversations", {"model": "m", "inputs": "a"}, "chat", "chat", "mistral", "m"),
    ("api.openai.com/v1/responses", {"model": "m", "input": "a"}, "responses", "chat", "openai", "m"),
    ("api.openai.com/v1/embeddings", {"model": "m", "input": "a"}, "embeddings", "embeddings", "openai", "m"),
    ("api.anthropic.com/v1/messages", {"model": "m", "messages": [TEXT]}, "messages", "chat", "anthropic", "m"),
    (
        "us-east5-aiplatform.googleapis.com/v1/projects/p/publishers/anthropic/models/claude:streamRawPredict",
        {"messages": [TEXT], "anthropic_version": "v"},
        "messages", "chat", "google", "claude",
    ),
    (
        "generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent?key=secret",
        {"contents": []},
        "gemini", "chat", "google", "gemini-2.5-flash",
    ),
    (
        "generativelanguage.googleapis.com/v1beta/models/e:batchEmbedContents",
        {"requests": []},
        "embeddings", "embeddings", "google", "e",
    ),
    (
        "generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        CHAT,
        "chat", "chat", "google", "gpt-4o",
    ),
    (
        "bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-v1%3A0/invoke",
        {"messages": [TEXT]},
        "invoke", "chat", "aws", "us.anthropic.claude-v1:0",
    ),
    (
        "bedrock-runtime.us-east-1.amazonaws.com/model/amazon.titan-embed-text-v2%3A0/invoke",
        {"inputText": "a"},
        "invoke", "embeddings", "aws", "amazon.titan-embed-text-v2:0",
    ),
    ("localhost:11434/api/chat", {"model": "m", "messages": [TEXT]}, "ollama", "chat", "ollama", "m"),
    ("localhost:11434/api/generate", {"model": "m", "prompt": "a"}, "ollama", "text_completion", "ollama", "m"),
    ("localhost:11434/api/embed", {"model": "m", "input": "a"}, "ollama", "embeddings", "ollama", "m"),
    ("api.cohere.com/v2/chat", {"model": "m", "messages": [TEXT]}, "cohere", "chat", "cohere", "m"),
    ("api.cohere.com/v1/chat", {"model": "m", "message": "a"}, "cohere", "chat", "cohere", "m"),
    ("api.cohere.com/v2/embed", {"model": "m", "texts": []}, "embeddings", "embeddings", "cohere", "m"),
    ("api.cohere.com/v2/rerank", {"model": "m", "query": "a", "documents": []}, "rerank", "rerank", "cohere", "m"),
    ("api.voyageai.com/v1/rerank", {"model": "m", "documents": []}, "rerank", "rerank", "voyageai", "m"),
    ("127.0.0.1:8080/rerank", {"query": "a", "texts": []}, "rerank", "rerank", None, None),
    ("api.openai.com/v1/images/generations", {"model": "m", "prompt": "a"}, "images", "chat", "openai", "m"),
    ("api.openai.com/v1/audio/speech", {"model": "m", "input": "a"}, "audio", "chat", "openai", "m"),
    ("api.openai.com/v1/batches", {"input_file_id": "f"}, "batch", "chat", "openai", None),
    ("api.mistral.ai/v1/batch/jobs", {"model": "m", "input_files": ["f"]}, "batch", "chat", "mistral", "m"),
    (
        "api.anthropic.com/v1/messages/batches",
        {"requests": [{"params": {"model": "m"}}]},
        "batch", "chat", "anthropic", "m",
    ),
    (
        "generativelanguage.googleapis.com/v1beta/models/imagen-4:predict",
        {"instances": []},
        "images", "chat", "google", "imagen-4",
    ),
    ("gateway.example/any/where/v1/chat/completions", CHAT, "chat", "chat", None, "gpt-4o"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "body", "api", "operation", "provider", "model"), KNOWN, ids=[each[0] for each in KNOWN]
)
def test_known_apis(url, body, api, operation, provider, model):
    """The path and the body's form say which API it is, the host whose, and either of them the model."""
    request = read_request("POST", f"https://{url}", json.dumps(body).encode())

    assert (api, operation, provider, model) == (request.api, request.operation, request.provider, request.model)
    assert "secret" not in repr(request)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/responses/resp_1", {"input": "a"}),
        ("POST", "/v1/responses/resp_1/cancel", {"input": "a"}),
        ("POST", "/v1/responses/input_tokens", {"input": "a"}),
        ("POST", "/v1/messages/count_tokens", CHAT),
        ("GET", "/v1/messages/batches/b/results", {"requests": []}),
        ("POST", "/v1/messages/batches/b/cancel", {"requests": []}),
        ("POST", "/v1/threads/t/messages", {"role": "user", "content": "a"}),
        ("POST", "/v1beta/models/m:countTokens", {"contents": []}),
        ("POST", "/v1/chat/completions", {"text": "a"}),
        ("POST", "/v1/chat/completions", ["messages"]),
        ("POST", "/v1/moderations", {"input": "a"}),
        ("POST", "/chat/completions/more", CHAT),
    ],
)
def test_other_requests(method, path, body):
    """Whatever is not billed, or not by this request."""
    assert read_request(method, "https://api.openai.com" + path, json.dumps(body)) is None


@pytest.mark.parametrize("body", [None, b"", b"{", b"\xff", object(), iter([b"{}"]), "no json"])
def test_bodies_that_cannot_be_read(body):
    """A body that is a stream or no JSON is none of a model's API."""
    assert read_request("POST", "https://api.openai.com/v1/chat/completions", body) is None


def test_url_has_no_secret():
    """Keys stand in queries, and passwords before the host."""
    url = "https://user:secret@api.openai.com:444/v1/chat/completions?key=secret"

    request = read_request("POST", url, CHAT)

    assert ("https://api.openai.com:444/v1/chat/completions", "api.openai.com") == (request.url, request.host)


def test_tools_that_the_provider_bills():
    """Those that it runs itself, by their type; one's own functions are not among them."""
    openai = [
        {"type": "function", "name": "f"},
        {"type": "web_search_preview", "search_context_size": "low"},
        {"type": "image_generation", "model": "gpt-image-1"},
    ]
    claude = [{"name": "f", "input_schema": {}}, {"type": "web_search_20260209", "name": "web_search", "max_uses": 3}]
    nova = [
        {"toolSpec": {"name": "f"}},
        {"systemTool": {"name": "nova_grounding"}},
        {"cachePoint": {"type": "default"}},
    ]
    gemini = [{"functionDeclarations": []}, {"googleSearch": {}}, {"googleMaps": {}}]
    kimi = [{"type": "builtin_function", "function": {"name": "$web_search"}}]
    searching = {**CHAT, "web_search_options": {"search_context_size": "high"}}
    url = "https://api.openai.com/v1/chat/completions"

    def tools(listed):
        return read_request("POST", url, {**CHAT, "tools": listed}).tools

    assert (BilledTool("web_search_preview"), BilledTool("image_generation", None, "gpt-image-1")) == tools(openai)
    assert (BilledTool("web_search_20260209", 3),) == tools(claude)
    assert (BilledTool("googleSearch"), BilledTool("googleMaps")) == tools(gemini)
    assert (BilledTool("$web_search"),) == tools(kimi)
    converse = "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.amazon.nova-premier-v1:0/converse"
    assert (BilledTool("systemTool"),) == read_request("POST", converse, {**CHAT, "toolConfig": {"tools": nova}}).tools
    assert (BilledTool("web_search_options"),) == read_request("POST", url, searching).tools
    assert "high" == read_request("POST", url, searching).search_context_size
    assert () == tools("none")


def test_what_changes_the_price():
    """The tier, speed, place and lifetimes of the cache that are asked for."""
    mark = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    asked = {
        "model": "claude-opus-4-8",
        "max_tokens": 9,
        "speed": "fast",
        "inference_geo": "us",
        "service_tier": "auto",
        "stream": True,
        "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [mark]}],
    }

    request = read_request("POST", "https://api.anthropic.com/v1/messages", asked)

    assert ("fast", "us", "auto", 9, True) == (
        request.speed, request.inference_geo, request.service_tier, request.most_output_tokens, request.streamed,
    )  # fmt: skip
    assert {"5m", "1h"} == request.cache_lifetimes
    kept = read_request("POST", "https://api.openai.com/v1/responses", {"input": "a", "prompt_cache_retention": "24h"})
    assert "24h" == kept.cache_retention


def test_long_body_is_searched_at_its_ends():
    """The model of a prompt with images is found without reading these."""
    images = [{"type": "image_url", "image_url": {"url": "a" * 8_000_000}}]
    body = json.dumps({"messages": [{"role": "user", "content": images}], "model": "gpt-4o", "stream": True}).encode()

    request = read_request("POST", "https://api.openai.com/v1/chat/completions", body)

    assert ("gpt-4o", True, len(body)) == (request.model, request.streamed, request.size)


def test_providers_of_hosts():
    """Regional and account's own hosts are their provider's; a name that only ends alike is not."""
    assert ["openai", "azure", "aws", "google", None, None] == [
        provider_of(host)
        for host in (
            "us.api.openai.com",
            "mine.openai.azure.com",
            "bedrock-runtime.eu-west-1.amazonaws.com",
            "europe-west4-aiplatform.googleapis.com",
            "notapi.openai.com.example",
            "localhost",
        )
    ]


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1/chat/completions",
        "HTTP://127.0.0.1:8080/v1/chat/completions?key=1#stream",
        "https://user:secret@[::1]:8443/v1/messages",
        "https://bedrock-runtime.eu-west-1.amazonaws.com/model/anthropic.claude%3A0/invoke",
        "https://bücher.example/a b/v1/responses/",
    ],
)
def test_parts_of_a_url_say_the_same_as_its_text(library, url):
    """An endpoint is the same by its URL's text and by the parts that httpx and httpx2 keep of it."""
    parsed = library.URL(url)
    parts = parsed._uri_reference

    assert read_endpoint(str(parsed).partition("?")[0]) == endpoint_of(parts.scheme, parts.host, parts.port, parts.path)


def marked(mark, times=1):
    """Return a request with a mark of a cache's lifetime, among texts that look like one."""
    quoted = {"type": "text", "text": 'He said "cache_control": {"ttl": "9h"}, "cachePoint": {}, "cache_control"'}
    blocks = [quoted, *({"type": "text", "text": "cachePoint?", "cache_control": mark} for _ in range(times))]
    return {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": blocks}]}


@pytest.mark.parametrize(
    ("body", "lifetimes"),
    [
        (marked({"type": "ephemeral"}), {"5m"}),
        (marked({"type": "ephemeral", "ttl": "1h"}, times=3), {"1h"}),
        (marked({}), set()),
        (marked(None), set()),
        (marked("ephemeral"), set()),
        (marked({"type": "ephemeral", "ttl": 3}), {"5m"}),
        (marked({"type": "ephemeral", "more": {"a": 1}, "ttl": "1h"}), {"1h"}),
        (
            CHAT | {"system": [{"text": "a"}, {"cachePoint": {"type": "default"}}], **marked({"ttl": "1h"})},
            {"5m", "1h"},
        ),
        (marked({"ttl": "1h"}, times=0), set()),
        (CHAT | {"stop": "cache_control", **marked({"ttl": "1h"})}, {"1h"}),
    ],
)
def test_lifetimes_in_json_are_those_of_what_it_was_made_of(body, lifetimes):
    """The cache lifetimes that are found in JSON are those in the dict that it was made of."""
    url = "https://api.anthropic.com/v1/messages"
    sent = json.dumps(body)

    found = [read_request("POST", url, each).cache_lifetimes for each in (body, sent, sent.encode())]
    assert [lifetimes] * 3 == found
