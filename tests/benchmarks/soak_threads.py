"""What the soak's threads do: each function makes calls at a place, and notes there how many of which kind."""

import contextlib
import threading
from collections.abc import Callable
from contextvars import copy_context

import httpx
import openai
from langchain_core.caches import InMemoryCache
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from tests.benchmarks.soak_places import BROKEN, BROKEN_EMBEDDINGS, Place
from token_handlers import track_tokens
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.llama_index import LlamaIndexTokenHandler

STATEMENTS = ("asked", "always", "last", "every", "doubled", "deltas")
IMPATIENT = httpx.Timeout(60.0, read=0.02)
PROMPT = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{text}")])


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def messages(place: Place) -> list[ChatMessage]:
    """Return a chat."""
    return [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=place.text())]


def invoke(place: Place) -> None:
    """One answer in one piece, sometimes with a cost of the provider's own."""
    cost = {"cost": f"0.000{place.draw.randint(1, 999):03}"} if place.draw.random() < 0.2 else {}
    place.chat(**place.modes(), **cost).invoke(place.text())
    place.did(exact=1)


def invoke_twice_over(place: Place) -> None:
    """Two choices."""
    place.chat(settings={"n": 2}, **place.modes()).invoke(place.text())
    place.did(exact=1)


def stream(place: Place) -> None:
    """A stream to its end, of any server's way to state usage."""
    for _ in place.chat(usage=place.draw.choice(STATEMENTS), **place.modes()).stream(place.text()):
        pass
    place.did(exact=1)


def batch(place: Place) -> None:
    """Three calls in threads of LangChain's."""
    place.chat(**place.modes()).batch([place.text() for _ in range(3)])
    place.did(exact=3)


def generate(place: Place) -> None:
    """Two prompts of a chat model and two of a legacy LLM, which sends them as one."""
    place.chat(**place.modes()).generate([[HumanMessage(place.text())], [HumanMessage(place.text())]])
    place.legacy().generate([place.text(), place.text()])
    place.did(exact=3)


def chain(place: Place) -> None:
    """A prompt, a model and a parser; breaking its stream off drains it."""
    run = PROMPT | place.chat(**place.modes()) | StrOutputParser()
    run.invoke({"text": place.text()})
    steps = run.stream({"text": place.text()})
    next(steps)
    steps.close()
    place.did(exact=2)


def structure(place: Place) -> None:
    """An answer in the form of a class."""
    place.chat("gpt-4o-mini").with_structured_output(Weather).invoke(place.text())
    place.did(exact=1)


def cache(place: Place) -> None:
    """The same question twice to a model with a cache."""
    model, text = place.chat(settings={"cache": InMemoryCache()}, **place.modes()), place.text()
    model.invoke(text)
    model.invoke(text)
    place.did(exact=1, cached=1)


def refusal(place: Place) -> None:
    """A server that answers 500 or 429."""
    model = place.chat(status=place.draw.choice((500, 429)))
    with contextlib.suppress(openai.APIStatusError):
        model.invoke(place.text()) if place.draw.random() < 0.5 else next(model.stream(place.text()))
    place.did(failed=1)


def retry(place: Place) -> None:
    """LangChain's own retries, of which each is a run."""
    model = place.chat(part="retry", status="500x2", **place.modes())
    model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False).invoke(place.text())
    place.did(exact=1, failed=2)


def sdk_retry(place: Place) -> None:
    """The client's own retries, of which nobody sees anything."""
    place.chat(part="sdk", status="429x1", settings={"max_retries": 2}, **place.modes()).invoke(place.text())
    place.did(exact=1, hidden=1)


def fallback(place: Place) -> None:
    """A model that fails, and one that answers."""
    place.chat(status=500).with_fallbacks([place.chat(**place.modes())]).invoke(place.text())
    place.did(exact=1, failed=1)


def unreported(place: Place) -> None:
    """A server that states no usage."""
    model = place.chat(BROKEN, usage="never")
    model.invoke(place.text())
    for _ in model.stream(place.text()):
        pass
    place.did(estimated=2)


def broken_stream(place: Place) -> None:
    """A stream that is closed before its end."""
    steps = place.chat(BROKEN, usage=place.draw.choice(("asked", "every")), words=30).stream(place.text())
    for _ in range(place.draw.randint(1, 9)):
        next(steps)
    steps.close()
    place.did(estimated=1)


def lost_stream(place: Place) -> None:
    """A stream that is forgotten in a cycle, as tracebacks make them, for the garbage collector to end."""
    steps = place.chat(BROKEN, words=30).stream(place.text())
    next(steps)
    ring: list[object] = [steps]
    ring.append(ring)
    place.did(estimated=1)


def late_stream(place: Place) -> None:
    """A stream that is read to its end after the block."""
    steps = place.chat(**{**place.modes(), "words": 30}).stream(place.text())
    next(steps)
    place.late.append(lambda: [None for _ in steps])
    place.did(exact=1)


def late_index_stream(place: Place) -> None:
    """The same of LlamaIndex."""
    steps = place.llm(words=30).stream_chat(messages(place))
    next(steps)
    place.late.append(lambda: [None for _ in steps])
    place.did(exact=1)


def time_out(place: Place) -> None:
    """A call that the client gives up on, and the server has taken."""
    model = place.chat(BROKEN, hold=1, settings={"timeout": IMPATIENT})
    with contextlib.suppress(openai.APITimeoutError):
        model.invoke(place.text())
    place.did(estimated=1)


def dropped(place: Place) -> None:
    """A connection that ends in the middle."""
    model = place.chat(BROKEN, cut=3, words=30, drop=place.draw.choice(("close", "reset")))
    with contextlib.suppress(openai.APIError, httpx.TransportError):
        for _ in model.stream(place.text()):
            pass
    with contextlib.suppress(openai.APIError, httpx.TransportError):
        model.invoke(place.text())
    place.did(estimated=2)


def embed(place: Place) -> None:
    """LangChain's and LlamaIndex's embeddings, answered, refused and given up on."""
    texts = [place.text() for _ in range(6)]
    place.embedder().embed_documents(texts)
    place.index_embedder().get_text_embedding_batch(texts)  # 4 in a request
    with contextlib.suppress(openai.APIStatusError):
        place.embedder(status=500).embed_query(texts[0])
    with contextlib.suppress(openai.APIError, httpx.TransportError):
        place.embedder(BROKEN_EMBEDDINGS, cut=0).embed_query(texts[0])
    place.did(exact=3, failed=1, estimated=1)


def handled(place: Place) -> None:
    """A handler in the callbacks list of a call, inside the block."""
    handler = LangChainTokenHandler()
    inside = place.at(place.node.inner(handler.counter))
    inside.chat(**inside.modes()).invoke(inside.text(), config={"callbacks": [handler]})
    for _ in inside.chat(**inside.modes()).stream(inside.text(), config={"callbacks": [handler, handler]}):
        pass
    inside.did(exact=2)


def index_handled(place: Place) -> None:
    """A handler in an LLM's callback manager, inside the block."""
    handler = LlamaIndexTokenHandler()
    inside = place.at(place.node.inner(handler.counter))
    inside.llm(settings={"callback_manager": CallbackManager([handler])}, **inside.modes()).chat(messages(inside))
    inside.did(exact=1)


def own_thread(place: Place) -> None:
    """Threads of the application's own: one enters the counter again, one has a copy of the context."""

    def entered() -> None:
        with track_tokens(counter=place.node.counter):
            invoke(place)

    context = copy_context()
    for work in (entered, lambda: context.run(index_chat, place)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


def index_chat(place: Place) -> None:
    """One answer in one piece, of chat or completion."""
    llm = place.llm(**place.modes())
    llm.chat(messages(place)) if place.draw.random() < 0.6 else llm.complete(place.text())
    place.did(exact=1)


def index_stream(place: Place) -> None:
    """A stream to its end."""
    llm = place.llm(usage=place.draw.choice(("asked", "always")), **place.modes())
    chat = place.draw.random() < 0.6
    for _ in llm.stream_chat(messages(place)) if chat else llm.stream_complete(place.text()):
        pass
    place.did(exact=1)


def index_predict(place: Place) -> None:
    """Wrappers around a chat: a template, and an answer in the form of a class."""
    prompt = PromptTemplate("The weather of {city}?")
    place.llm("gpt-4o-mini", **place.modes()).predict(prompt, city=place.text())
    place.llm("gpt-4o-mini").structured_predict(Weather, prompt, city=place.text())
    place.did(exact=2)


def index_refusal(place: Place) -> None:
    """A server that answers 500."""
    with contextlib.suppress(openai.APIStatusError):
        place.llm(status=500).chat(messages(place))
    place.did(failed=1)


def index_broken(place: Place) -> None:
    """A stream that is closed, and a connection that ends, before the answer's end."""
    steps = place.llm(BROKEN, words=30).stream_chat(messages(place))
    for _ in range(place.draw.randint(1, 9)):
        next(steps)
    steps.close()
    with contextlib.suppress(openai.APIError, httpx.TransportError):
        for _ in place.llm(BROKEN, cut=4, words=30).stream_chat(messages(place)):
            pass
    place.did(estimated=2)


PLAIN: tuple[Callable[[Place], None], ...] = (
    invoke,
    invoke_twice_over,
    stream,
    batch,
    generate,
    chain,
    structure,
    cache,
    refusal,
    retry,
    sdk_retry,
    fallback,
    handled,
    own_thread,
    index_chat,
    index_stream,
    index_predict,
    index_refusal,
    index_handled,
)
"""What is never shown as an estimate on the way."""

ALL = (
    *PLAIN,
    unreported,
    broken_stream,
    lost_stream,
    late_stream,
    late_index_stream,
    time_out,
    dropped,
    embed,
    index_broken,
)
