"""What the soak's asyncio tasks do: as soak_threads, and cancelled in every way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import httpx
import openai
from langchain_core.output_parsers import StrOutputParser
from llama_index.core.callbacks import CallbackManager

from tests.benchmarks.soak_places import BROKEN, BROKEN_EMBEDDINGS, Place, on_sent
from tests.benchmarks.soak_threads import IMPATIENT, PROMPT, STATEMENTS, messages
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.llama_index import LlamaIndexTokenHandler

GATE = 4


async def ainvoke(place: Place) -> None:
    """One answer in one piece."""
    await place.chat(**place.modes()).ainvoke(place.text())
    place.did(exact=1)


async def astream(place: Place) -> None:
    """A stream to its end."""
    async for _ in place.chat(usage=place.draw.choice(STATEMENTS), **place.modes()).astream(place.text()):
        pass
    place.did(exact=1)


async def gather(place: Place) -> None:
    """Calls of both frameworks at once."""
    await asyncio.gather(
        place.chat(**place.modes()).ainvoke(place.text()),
        place.llm(**place.modes()).achat(messages(place)),
        place.embedder().aembed_documents([place.text()]),
    )
    place.did(exact=3)


async def abatch(place: Place) -> None:
    """Three calls in tasks of LangChain's, and two prompts of a legacy LLM."""
    await place.chat(**place.modes()).abatch([place.text() for _ in range(3)])
    await place.legacy().agenerate([place.text(), place.text()])
    place.did(exact=4)


async def achain(place: Place) -> None:
    """A prompt, a model and a parser."""
    await (PROMPT | place.chat(**place.modes()) | StrOutputParser()).ainvoke({"text": place.text()})
    place.did(exact=1)


async def aretry(place: Place) -> None:
    """LangChain's own retries, of which each is a run, and the client's, of which none is."""
    model = place.chat(part="retry", status="429x1", **place.modes())
    await model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False).ainvoke(place.text())
    await place.chat(part="sdk", status="500x1", settings={"max_retries": 2}, **place.modes()).ainvoke(place.text())
    place.did(exact=2, failed=1, hidden=1)


async def arefusal(place: Place) -> None:
    """A server that answers 500, to both frameworks."""
    with contextlib.suppress(openai.APIStatusError):
        await place.chat(status=500).ainvoke(place.text())
    with contextlib.suppress(openai.APIStatusError):
        await place.llm(status=429).achat(messages(place))
    place.did(failed=2)


async def ahandled(place: Place) -> None:
    """Handlers of both frameworks, inside the block."""
    handler = LangChainTokenHandler()
    inside = place.at(place.node.inner(handler.counter))
    await inside.chat(**inside.modes()).ainvoke(inside.text(), config={"callbacks": [handler]})
    inside.did(exact=1)
    index = LlamaIndexTokenHandler()
    inside = place.at(place.node.inner(index.counter))
    await inside.llm(settings={"callback_manager": CallbackManager([index])}).achat(messages(inside))
    inside.did(exact=1)


async def aindex_stream(place: Place) -> None:
    """LlamaIndex's streams to their end."""
    llm = place.llm(usage=place.draw.choice(("asked", "always")), **place.modes())
    chat = place.draw.random() < 0.6
    steps = await (llm.astream_chat(messages(place)) if chat else llm.astream_complete(place.text()))
    async for _ in steps:
        pass
    place.did(exact=1)


async def own_tasks(place: Place) -> None:
    """A task that was created in the block, and is awaited after it."""
    tasks = [asyncio.create_task(ainvoke(place)), asyncio.create_task(aindex_stream(place))]

    async def ends() -> None:
        await asyncio.gather(*tasks)

    place.late.append(ends)


async def cancelled(place: Place) -> None:
    """A task that is cancelled while it waits for its answer."""
    model, llm = place.chat(BROKEN, hold=1), place.llm(BROKEN, hold=1)
    await _cancelled_when_sent(model.ainvoke(place.text()))
    await _cancelled_when_sent(llm.achat(messages(place)))
    place.did(estimated=2)


async def cancelled_stream(place: Place) -> None:
    """A task that is cancelled while it reads, in both frameworks."""
    model, llm = place.chat(BROKEN, gate=GATE, words=30), place.llm(BROKEN, gate=GATE, words=30)
    await _cancelled_when_reading(model.astream(place.text()), lambda chunk: chunk.content)
    await _cancelled_when_reading(await llm.astream_chat(messages(place)), lambda chunk: chunk.delta)
    place.did(estimated=2)


async def over_time(place: Place) -> None:
    """A time that is over around a call, in a task that goes on."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            token = on_sent.set(lambda: limit.reschedule(0))
            await place.chat(BROKEN, hold=1).ainvoke(place.text())
    on_sent.reset(token)
    place.did(estimated=1)


async def abroken(place: Place) -> None:
    """Streams that are left before their end: closed, or for the event loop to close."""
    steps = place.chat(BROKEN, words=30).astream(place.text())
    async for _ in steps:
        break
    if place.draw.random() < 0.5:
        await steps.aclose()
    async for _ in await place.llm(BROKEN, words=30).astream_chat(messages(place)):
        break
    place.did(estimated=2)


async def abroken_chain(place: Place) -> None:
    """A chain whose stream is left, which says nothing of its model's call."""
    steps = (PROMPT | place.chat(BROKEN, gate=9, words=30) | StrOutputParser()).astream({"text": place.text()})
    async for _ in steps:
        break
    await steps.aclose()
    place.did(estimated=1)


async def atime_out(place: Place) -> None:
    """A call that the client gives up on, and the server has taken."""
    with contextlib.suppress(openai.APITimeoutError):
        await place.chat(BROKEN, hold=1, settings={"timeout": IMPATIENT}).ainvoke(place.text())
    place.did(estimated=1)


async def adropped(place: Place) -> None:
    """A connection that ends in the middle, and one that ends before the embeddings came."""
    with contextlib.suppress(openai.APIError, httpx.TransportError):
        async for _ in place.chat(BROKEN, cut=3, words=30).astream(place.text()):
            pass
    with contextlib.suppress(openai.APIError, httpx.TransportError):
        await place.embedder(BROKEN_EMBEDDINGS, cut=0).aembed_query(place.text())
    place.did(estimated=2)


async def alate_stream(place: Place) -> None:
    """Streams of both frameworks that are read to their ends after the block."""
    steps = place.chat(**{**place.modes(), "words": 30}).astream(place.text())
    await anext(steps)
    others = await place.llm(words=30).astream_chat(messages(place))
    await anext(others)

    async def ends() -> None:
        for rest in (steps, others):
            async for _ in rest:
                pass

    place.late.append(ends)
    place.did(exact=2)


async def _cancelled_when_sent(call: Coroutine[Any, Any, object]) -> None:
    async def calling() -> None:
        on_sent.set(task.cancel)
        await call

    task = asyncio.create_task(calling())
    await asyncio.wait([task])
    if not task.cancelled():
        raise AssertionError(f"{call} was answered") from task.exception()


async def _cancelled_when_reading(steps: AsyncIterator[Any], text: Callable[[Any], object]) -> None:
    """Cancel a task that has read all that comes before the gate, so that no chunk arrives with the cancellation."""
    has_read = asyncio.Event()

    async def reading() -> None:
        number = 0
        async for chunk in steps:
            number += bool(text(chunk))
            if number == GATE:
                has_read.set()

    task = asyncio.create_task(reading())
    await has_read.wait()
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        raise AssertionError("a stream came to its end") from task.exception()


PLAIN: tuple[Callable[[Place], Awaitable[None]], ...] = (
    ainvoke,
    astream,
    gather,
    abatch,
    achain,
    aretry,
    arefusal,
    ahandled,
    aindex_stream,
)
ALL = (
    *PLAIN,
    own_tasks,
    cancelled,
    cancelled_stream,
    over_time,
    abroken,
    abroken_chain,
    atime_out,
    adropped,
    alate_stream,
)
