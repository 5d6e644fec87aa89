"""What a request says: which API and model it asks, and what it allows to be billed. Its text is not kept."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from token_handlers.http.json_values import load
from token_handlers.usage import Operation

MOST_PARSED = 1_000_000
"""Bytes of a request body that is read whole; only the two ends of a longer one, as with images, are searched."""


class Api(NamedTuple):
    """A provider's API: our name for it, what it does, the end of its path, and keys of which a body has one."""

    name: str
    operation: Operation
    path: re.Pattern[str]
    keys: frozenset[str]


def _api(name: str, operation: Operation, path: str, keys: str) -> Api:
    return Api(name, operation, re.compile(f"(?:{path})$"), frozenset(keys.split()))


# The first whose path and keys match is it. A path may have a gateway's own before it.
APIS = (
    _api("chat", "chat", r"/(chat|agents)/completions", "messages"),
    _api("chat", "chat", r"/conversations(/[^/]+)?(#stream)?", "inputs"),
    _api("chat", "chat", r"/(serving-endpoints/[^/]+/)?invocations", "messages"),
    _api("chat", "chat", r"/text/chat(_stream)?|/inference:complete", "messages"),
    _api("chat", "chat", r"/(text-generation|multimodal-generation)/generation", "input"),
    _api("completions", "text_completion", r"/(fim/)?(completions|complete)", "prompt"),
    _api("completions", "text_completion", r"/text/generation(_stream)?", "input"),
    _api("responses", "chat", r"/responses(/compact)?", "input prompt previous_response_id conversation"),
    _api("decisions", "chat", r"/decisions", "input messages"),
    _api("messages", "chat", r"/messages", "messages"),
    _api("messages", "chat", r"/publishers/anthropic/models/[^/]+:(rawPredict|streamRawPredict)", "messages"),
    _api("chat", "chat", r"/publishers/[^/]+/models/[^/]+:(rawPredict|streamRawPredict)", "messages"),
    _api("gemini", "chat", r":(generateContent|streamGenerateContent)", "contents"),
    _api("interactions", "chat", r"/interactions", "input"),
    _api("embeddings", "embeddings", r":(embedContent|batchEmbedContents)", "content requests contents"),
    _api("embeddings", "embeddings", r"embedding[^/]*:predict", "instances"),
    _api("converse", "chat", r"/model/[^/]+/converse(-stream)?", "messages"),
    _api(
        "invoke",
        "chat",
        r"/model/[^/]+/invoke(-with-response-stream)?",
        "messages prompt inputText texts images inputs contents documents anthropic_version taskType",
    ),
    _api("ollama", "chat", r"/api/chat", "messages"),
    _api("ollama", "text_completion", r"/api/generate", "prompt"),
    _api("ollama", "embeddings", r"/api/embed", "input"),
    _api("ollama", "embeddings", r"/api/embeddings", "prompt"),
    _api("cohere", "chat", r"/v\d/chat|/chat", "message messages"),
    _api("cohere", "text_completion", r"/v\d/generate", "prompt"),
    _api("embeddings", "embeddings", r"/(multimodal|contextualized)?embeddings", "input inputs texts"),
    _api("embeddings", "embeddings", r"/embed", "texts images inputs input"),
    _api("rerank", "rerank", r"/rerank", "documents texts"),
    # not billed by tokens, or billed later: without usage in the answer, an estimate
    _api("images", "chat", r"/images/(generations|edits|variations)", "prompt image"),
    _api("images", "chat", r"/(imagen|veo)[^/]*:(predict|predictLongRunning)", "instances"),
    _api("audio", "chat", r"/audio/(speech|transcriptions|translations)", "model"),
    _api("batch", "chat", r"/messages/batches", "requests"),
    _api("batch", "chat", r"/batches", "input_file_id"),
    _api("batch", "chat", r"/batch/jobs", "input_files requests"),
    _api("batch", "chat", r":batchGenerateContent", "batch"),
    _api("batch", "embeddings", r":asyncBatchEmbedContent", "batch"),
)

_HOSTS = {
    "api.anthropic.com": "anthropic",
    "api.cerebras.ai": "cerebras",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks",
    "api.groq.com": "groq",
    "api.minimax.io": "minimax",
    "api.mistral.ai": "mistral",
    "api.moonshot.ai": "moonshotai",
    "api.openai.com": "openai",
    "api.perplexity.ai": "perplexity",
    "api.together.xyz": "together",
    "api.voyageai.com": "voyageai",
    "api.x.ai": "x-ai",
    "api.z.ai": "zai",
    "ai-gateway.vercel.sh": "vercel",
    "aiplatform.googleapis.com": "google",
    "amazonaws.com": "aws",
    "cognitiveservices.azure.com": "azure",
    "deepinfra.com": "deepinfra",
    "generativelanguage.googleapis.com": "google",
    "open.bigmodel.cn": "zhipuai",
    "openai.azure.com": "azure",
    "openrouter.ai": "openrouter",
    "services.ai.azure.com": "azure",
}
_MAKERS = {"messages": "anthropic", "gemini": "google", "interactions": "google", "converse": "aws", "ollama": "ollama"}

_MODEL_IN_PATH = re.compile(
    r"/model/([^/]+)/(?:invoke|converse)|/(?:models|deployments|serving-endpoints)/([^/:]+)[/:]"
)
_MODEL_IN_BODY = re.compile(rb'(?<!\\)"model"\s*:\s*"([^"\\]{1,200})"')
_HEAD, _TAIL = 2_000, 64_000


class BilledTool(NamedTuple):
    """A tool that the provider runs and may bill, as a request declares it.

    ``kind`` is its type in the API's own words, such as "web_search", "web_search_preview" or "googleSearch",
    ``most_uses`` how often it may be used (None: no limit), ``model`` the model that runs it.
    """

    kind: str
    most_uses: int | None = None
    model: str | None = None


class ProviderRequest(NamedTuple):
    """A request that was sent to a known API of a provider.

    ``url`` has no query and no password, as these contain keys. ``provider`` is the one that the host belongs to, else
    the API's maker (None: any). ``model`` is the one that was asked for. ``size`` is in bytes (0: not known).
    ``documents`` is how many a reranker gets, ``is_guarded`` whether one of Bedrock's guardrails is asked for,
    ``cache_lifetimes`` are the ttl values of its cache_control marks ("5m" for a mark without). ``most_output_tokens``,
    ``service_tier``, ``speed``, ``inference_geo`` and ``cache_retention`` are what it asks for, not what is served.
    """

    url: str
    host: str
    path: str
    api: str
    operation: Operation
    provider: str | None = None
    model: str | None = None
    streamed: bool = False
    size: int = 0
    most_output_tokens: int | None = None
    tools: tuple[BilledTool, ...] = ()
    most_tool_calls: int | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    search_context_size: str | None = None
    cache_retention: str | None = None
    is_guarded: bool = False
    documents: int = 0
    cache_lifetimes: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether it asks for nothing that is billed apart from tokens, or that changes their rates."""
        return self[_OPTIONS] == _NO_OPTIONS


_OPTIONS = slice(ProviderRequest._fields.index("tools"), None)
_NO_OPTIONS = ProviderRequest(url="", host="", path="", api="", operation="chat")[_OPTIONS]


class Endpoint(NamedTuple):
    """Where a request is sent: what its URL says, and the APIs whose path it has."""

    url: str
    host: str
    path: str
    apis: tuple[Api, ...]
    provider: str | None
    model: str | None
    streamed: bool


def read_request(method: str, url: str, body: object, *, seeks_marks: bool = True) -> ProviderRequest | None:
    """Return what a request says, or None where it is no POST to an API that bills tokens.

    ``body`` is JSON (bytes or str), or the dict that will be JSON. It must have one of the API's keys, as another
    service may have the same path. Without ``seeks_marks`` a prompt is not searched for its ``cache_lifetimes``.
    """
    if method != "POST" and method.upper() != "POST":
        return None
    return read_post(read_endpoint(url.partition("?")[0]), body, seeks_marks=seeks_marks)


def read_post(endpoint: Endpoint, body: object, *, seeks_marks: bool = True) -> ProviderRequest | None:
    """As `read_request`, of a POST to an endpoint that is known already."""
    if not endpoint.apis:
        return None
    fields, size, lifetimes = _fields(body, seeks_marks=seeks_marks)
    for api in endpoint.apis:
        if not api.keys.isdisjoint(fields):
            return _request(api, endpoint, fields, size, lifetimes)
    return None


def read_parameters(
    url: str, path: str, body: Mapping[str, object], *, seeks_marks: bool = True
) -> ProviderRequest | None:
    """As `read_request`, of a client's call before it becomes JSON."""
    return read_request("POST", url.rstrip("/") + path, body, seeks_marks=seeks_marks)


@lru_cache(maxsize=256)
def read_endpoint(url: str) -> Endpoint:
    """Return the endpoint of a URL without a query."""
    parts = urlsplit(url)
    path = parts.path.replace("%3A", ":").replace("%3a", ":").rstrip("/")  # ids are quoted, and contain "/" and ":"
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
    host = parts.hostname or ""
    named = _MODEL_IN_PATH.search(path)
    return Endpoint(
        origin + parts.path,
        host,
        path,
        tuple(api for api in APIS if api.path.search(path)),
        provider_of(host),
        unquote(named[1] or named[2]) if named else None,
        "stream" in path.rpartition("/")[2].lower(),
    )


@lru_cache(maxsize=256)
def endpoint_of(scheme: str, host: str, port: int | str | None, path: str) -> Endpoint:
    """As `read_endpoint`, of a URL's parts: for a client that has these and takes long to join them."""
    netloc = f"[{host}]" if ":" in host else host
    return read_endpoint(f"{scheme}://{netloc}{path}" if port is None else f"{scheme}://{netloc}:{port}{path}")


def _request(
    api: Api, endpoint: Endpoint, fields: Mapping[str, object], size: int, lifetimes: frozenset[str]
) -> ProviderRequest:
    model = fields.get("model")
    plain = ProviderRequest(
        url=endpoint.url,
        host=endpoint.host,
        path=endpoint.path,
        api=api.name,
        operation=api.operation if api.name != "invoke" else _invoked(endpoint.path, fields),
        provider=endpoint.provider or _MAKERS.get(api.name),
        model=model if model and isinstance(model, str) else _model_elsewhere(api, endpoint, fields),
        streamed=endpoint.streamed or fields.get("stream") is True,
        size=size,
        most_output_tokens=None if _MOST.isdisjoint(fields) else _number(fields, *_MOST),
    )
    if _OPTION_KEYS.isdisjoint(fields):  # as nearly always
        return plain._replace(cache_lifetimes=lifetimes) if lifetimes else plain
    if _OPTION_KEYS.intersection(fields) == _TOOLS:
        tools = tuple(_billed(fields["tools"]))
        return plain._replace(tools=tools, cache_lifetimes=lifetimes) if tools or lifetimes else plain
    config = _mapping(fields, "generationConfig", "inferenceConfig", "options")
    search = _mapping(fields, "web_search_options")
    return plain._replace(
        most_output_tokens=plain.most_output_tokens or _number(config, "maxOutputTokens", "maxTokens", "num_predict"),
        tools=tuple(_tools(fields)),
        most_tool_calls=_number(fields, "max_tool_calls"),
        service_tier=_text(fields, "service_tier", "serviceTier") or _text(_mapping(fields, "serviceTier"), "type"),
        speed=_text(fields, "speed"),
        inference_geo=_text(fields, "inference_geo"),
        search_context_size=_text(search, "search_context_size"),
        cache_retention=_text(fields, "prompt_cache_retention"),
        is_guarded=bool(_mapping(fields, "guardrailConfig")),
        documents=len(documents) if isinstance(documents := fields.get("documents"), list) else 0,
        cache_lifetimes=lifetimes,
    )


_MOST = dict.fromkeys(("max_output_tokens", "max_completion_tokens", "max_tokens")).keys()  # in this order
_OPTION_KEYS = frozenset({
    "generationConfig", "inferenceConfig", "options", "web_search_options", "tools", "plugins", "toolConfig",
    "search_parameters", "max_tool_calls", "service_tier", "serviceTier", "speed", "inference_geo",
    "prompt_cache_retention", "guardrailConfig", "documents",
})  # fmt: skip
"""The keys of a request's body that say more than the model and its most output tokens."""
_TOOLS = frozenset({"tools"})


@lru_cache(maxsize=256)
def provider_of(host: str) -> str | None:
    """Return genai-prices' id of the provider that a host belongs to, also a regional one."""
    name = host
    while name:
        if name in _HOSTS:
            return _HOSTS[name]
        name = name.partition(".")[2]
    return "google" if host.endswith("-aiplatform.googleapis.com") else None


def _invoked(path: str, fields: Mapping[str, object]) -> Operation:
    if "rerank" in path.lower():
        return "rerank"
    return "embeddings" if "embed" in path.lower() else "chat" if "messages" in fields else "text_completion"


def _model_elsewhere(api: Api, endpoint: Endpoint, fields: Mapping[str, object]) -> str | None:
    """Return the model of a request without a "model": its path's, or that of a batch's first request."""
    named = _text(fields, "model_id", "modelId") or endpoint.model
    if named is not None:
        return named
    requests = fields.get("requests") if api.name == "batch" else None
    first = requests[0] if isinstance(requests, list) and requests else None
    return _text(_mapping(first, "params"), "model") if isinstance(first, dict) else None


_NONE: frozenset[str] = frozenset()


def _fields(body: object, *, seeks_marks: bool) -> tuple[Mapping[str, object], int, frozenset[str]]:
    """Return a body's top-level fields, its size in bytes, and the cache lifetimes that its prompt asks for.

    Of a long body the fields are only keys, its model, and whether it streams.
    """
    if not isinstance(body, (bytes, bytearray)):
        if isinstance(body, dict):
            return body, 0, frozenset(_lifetimes(body, 0)) if seeks_marks else _NONE
        if not isinstance(body, str):
            return {}, 0, _NONE
        body = body.encode()
    if len(body) > MOST_PARSED:
        return _ends(bytes(body)), len(body), _NONE
    fields = load(body)
    if not isinstance(fields, dict):
        return {}, len(body), _NONE
    is_marked = seeks_marks and (b"cache_control" in body or b"cachePoint" in body)
    return fields, len(body), _lifetimes_in(body, fields) if is_marked else _NONE


def _ends(body: bytes) -> dict[str, object]:
    ends = body[:_HEAD], body[-_TAIL:]
    fields: dict[str, object] = {
        key: True for api in APIS for key in api.keys if any(f'"{key}":'.encode() in end for end in ends)
    }
    found = next((found for end in ends if (found := _MODEL_IN_BODY.search(end))), None)
    if found is not None:
        fields["model"] = found[1].decode(errors="replace")
    fields["stream"] = any(re.search(rb'"stream"\s*:\s*true', end) for end in ends)
    return fields


_OWN_TOOLS = ("function", "custom")
_OWN_KEYS = frozenset({"functionDeclarations", "function_declarations", "toolSpec", "cachePoint", "name"})


def _tools(fields: Mapping[str, object]) -> list[BilledTool]:
    """Return the declared tools that the provider runs itself."""
    found = []
    if "web_search_options" in fields:
        found.append(BilledTool("web_search_options"))
    for listed in (fields.get("tools"), fields.get("plugins"), _mapping(fields, "toolConfig").get("tools")):
        found += _billed(listed)
    if isinstance(fields.get("search_parameters"), dict):
        found.append(BilledTool("search_parameters"))
    return found


def _billed(listed: object) -> list[BilledTool]:
    """Return the tools of a list that the provider runs itself; most are the application's own functions."""
    found: list[BilledTool] = []
    for tool in listed if isinstance(listed, list) else ():
        if isinstance(tool, dict) and tool.get("type") not in _OWN_TOOLS:
            found += _of_kind(tool)
    return found


def _of_kind(tool: Mapping[str, object]) -> list[BilledTool]:
    kind = _text(tool, "type", "id")
    if kind is None:  # a tool of Gemini's or of Bedrock's Converse has its kind as its key
        return [BilledTool(str(key)) for key in tool] if _OWN_KEYS.isdisjoint(tool) else []
    if kind == "builtin_function":
        kind = _text(_mapping(tool, "function"), "name") or kind
    return [BilledTool(kind, _number(tool, "max_uses"), _text(tool, "model"))]


_MARK = re.compile(rb'"(?:cache_control|cachePoint)"\s*:\s*(\{\s*"[^{}]*\})')


def _lifetimes_in(body: bytes | bytearray, fields: Mapping[str, object]) -> frozenset[str]:
    """As `_lifetimes`, by a search of the JSON, as a walk through a long prompt takes long.

    What is found is a key, as a quotation mark within a text is escaped. The walk is made where a key is found whose
    value is no flat object.
    """
    marks = _MARK.findall(body)
    if len(marks) != body.count(b'"cache_control"') + body.count(b'"cachePoint"'):
        return frozenset(_lifetimes(fields, 0))
    return frozenset(_lifetime(load(mark)) for mark in marks)


def _lifetime(mark: object) -> str:
    return (_text(mark, "ttl") if isinstance(mark, dict) else None) or "5m"


def _lifetimes(value: object, depth: int) -> list[str]:
    """Return the lifetimes that cache_control marks ask for, anywhere in a prompt."""
    if depth > 8:
        return []
    if isinstance(value, list):
        return [each for entry in value if isinstance(entry, (dict, list)) for each in _lifetimes(entry, depth + 1)]
    if not isinstance(value, dict):
        return []
    mark = value.get("cache_control") or value.get("cachePoint")
    own = [_lifetime(mark)] if isinstance(mark, dict) else []
    inner = (entry for entry in value.values() if isinstance(entry, (dict, list)))
    return own + [each for entry in inner for each in _lifetimes(entry, depth + 1)]


def _mapping(fields: Mapping[str, object], *keys: str) -> Mapping[str, object]:
    for key in keys:
        found = fields.get(key)
        if isinstance(found, dict):
            return found
    return {}


def _text(fields: Mapping[str, object], *keys: str) -> str | None:
    for key in keys:
        found = fields.get(key)
        if found and isinstance(found, str):
            return found
    return None


def _number(fields: Mapping[str, object], *keys: str) -> int | None:
    for key in keys:
        found = fields.get(key)
        if type(found) is int and found > 0:
            return found
    return None
