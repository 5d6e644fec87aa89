"""Where the soak's calls happen: nodes, which are scopes of a name, and the real clients that call inside one.

A request tells the server its node by its channel, so that the bill can be summed up per scope without asking whom the
package counted it for.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import httpx
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai import OpenAI as Legacy
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

from token_handlers import TokenCounter
from token_handlers.llama_index import report_stream_usage

EXACT = ("gpt-4o-mini", "gpt-4.1-mini", "gpt-4.1-nano")
UNPRICED = "house-model"
BROKEN, BROKEN_EMBEDDINGS = "gpt-4o", "text-embedding-3-large"
ESTIMATED = (BROKEN, "gpt-4o-2024-08-06", BROKEN_EMBEDDINGS)
"""The models of the calls that are broken off or unreported, under all names: their tokens are estimates."""

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
PATIENT = 120.0
on_sent: ContextVar[Callable[[], object] | None] = ContextVar("on_sent", default=None)
"""What to do once a request is sent: a cancellation before that would cancel a call that nobody bills."""


@dataclass(eq=False)
class Node:
    """A scope: its counter, the scopes around it, and what was done inside it and in no scope further in."""

    name: str
    counter: TokenCounter
    around: "tuple[Node, ...]" = ()
    done: Counter[str] = field(default_factory=Counter)
    fresh: "count[int]" = field(default_factory=count)
    all: "list[Node]" = field(default_factory=list)
    """Every node of the soak, one list for all."""

    def inner(self, counter: TokenCounter | None = None, *also: "Node") -> "Node":
        """Return a node inside this one, and inside others."""
        node = Node(f"{self.name}.{next(self.fresh)}", counter or TokenCounter(), (self, *also), all=self.all)
        self.all.append(node)
        return node


@dataclass
class Clients:
    """What sends: shared connections, as an application has them."""

    url: Callable[..., str]
    threads: httpx.Client
    tasks: httpx.AsyncClient


@dataclass
class Place:
    """A node with all that its calls need."""

    node: Node
    draw: Random
    clients: Clients
    made: Counter[str] = field(default_factory=Counter)
    """What the worker has done everywhere."""
    late: list[Callable[[], Any]] = field(default_factory=list)
    """What is to be ended after the scope was left."""

    def did(self, **numbers: int) -> None:
        """Note what was done here."""
        self.node.done.update(numbers)
        self.made.update(numbers)

    def at(self, node: Node) -> "Place":
        """Return the same worker's place in another node."""
        return Place(node, self.draw, self.clients, self.made)

    def text(self, most: int = 30) -> str:
        """Return a prompt."""
        return " ".join(self.draw.choices(WORDS, k=self.draw.randint(1, most)))

    def modes(self) -> dict[str, object]:
        """Return how a server bills at random, and tells all of it."""
        draw = self.draw
        modes: dict[str, object] = {"words": draw.randint(1, 16)}
        if draw.random() < 0.3:
            modes["cached"] = draw.randint(1, 40)
        if draw.random() < 0.3:
            modes["reasoning"] = draw.randint(1, 9)
        return modes

    def url(self, part: str, modes: Mapping[str, object]) -> str:
        """Return an address of this node; a part with a number of its own counts its requests from 1."""
        return self.clients.url(chan=f"{self.node.name}#{part}{next(self.node.fresh) if part else ''}", **modes)

    def chat(self, model: str = "", part: str = "", settings: Mapping[str, Any] | None = None, **modes: object) -> Any:
        """Return a ChatOpenAI."""
        if not model:
            model = self.draw.choice((*EXACT, UNPRICED))
        return ChatOpenAI(model=model, stream_usage=True, **self._connected("base_url", part, modes, settings))

    def legacy(self) -> Legacy:
        """Return a legacy OpenAI LLM."""
        return Legacy(model="gpt-3.5-turbo-instruct", **self._connected("base_url", "", {}, None))

    def embedder(self, model: str = "text-embedding-3-small", **modes: object) -> OpenAIEmbeddings:
        """Return LangChain's embeddings, which send texts rather than tokens."""
        return OpenAIEmbeddings(
            model=model, check_embedding_ctx_length=False, **self._connected("base_url", "", modes, None)
        )

    def llm(self, model: str = "", part: str = "", settings: Mapping[str, Any] | None = None, **modes: object) -> Any:
        """Return LlamaIndex's OpenAI."""
        model = model or self.draw.choice(EXACT)
        return report_stream_usage(OpenAI(model=model, **self._connected("api_base", part, modes, settings)))

    def index_embedder(self, model: str = "text-embedding-3-small", **modes: object) -> OpenAIEmbedding:
        """Return LlamaIndex's embeddings."""
        return OpenAIEmbedding(
            model=model, embed_batch_size=4, num_workers=None, **self._connected("api_base", "", modes, None)
        )

    def _connected(
        self, url: str, part: str, modes: Mapping[str, object], settings: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        other = "http_async_client" if url == "base_url" else "async_http_client"
        return {
            url: self.url(part, modes),
            "api_key": "none",
            "max_retries": 0,
            "timeout": PATIENT,
            "http_client": self.clients.threads,
            other: self.clients.tasks,
            **(settings or {}),
        }


async def _trace(event: str, info: Mapping[str, Any]) -> None:
    act = on_sent.get()
    if act is not None and event == "http11.send_request_body.complete":
        act()


async def _watch(request: httpx.Request) -> None:
    request.extensions["trace"] = _trace


def make_clients(url: Callable[..., str], streams: int) -> Clients:
    """Return clients with connections for so many threads, and as many tasks."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=streams)
    return Clients(
        url,
        httpx.Client(timeout=PATIENT, limits=limits),
        httpx.AsyncClient(timeout=PATIENT, limits=limits, event_hooks={"request": [_watch]}),
    )
