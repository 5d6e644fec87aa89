import asyncio
import contextlib
import gc
import json
import threading

import aiohttp
import pytest
from aiohttp.streams import StreamReader
from google import genai

from tests.support.answer_server import body, events
from tests.support.provider_answers import CHAT, CHAT_STREAM, GEMINI, GEMINI_STREAM
from token_handlers.http.exchange import Exchange

ASKED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"
RIGHT = [((100, 20), True)]


async def _iterate(pieces):
    return b"".join([piece if isinstance(piece, bytes) else piece[0] async for piece in pieces])


async def _until_empty(read):
    data = b""
    while piece := await read():
        data += piece
    return data


READS = {
    "read": lambda response: response.read(),
    "content.read": lambda response: response.content.read(),
    "text": lambda response: response.text(),
    "iter_any": lambda response: _iterate(response.content.iter_any()),
    "iter_chunked": lambda response: _iterate(response.content.iter_chunked(7)),
    "iter_chunks": lambda response: _iterate(response.content.iter_chunks()),
    "lines": lambda response: _iterate(response.content),
    "read some": lambda response: _until_empty(lambda: response.content.read(50)),
    "readany": lambda response: _until_empty(response.content.readany),
    "readline": lambda response: _until_empty(response.content.readline),
}


@pytest.mark.parametrize("encoding", [None, "gzip", "br"])
@pytest.mark.parametrize("way", READS)
async def test_every_way_to_read(watcher, answers, way, encoding):
    """The body is seen once, in whichever way it is read."""
    answers.answer(events(CHAT_STREAM, size=7, encoding=encoding))
    async with aiohttp.ClientSession() as session, session.post(answers.url + PATH, json=ASKED) as response:
        data = await READS[way](response)

    assert b"chatcmpl-1" in (data.encode() if isinstance(data, str) else data)
    assert RIGHT == watcher.counts
    assert "gpt-4o-mini" == watcher.requests[0].model


async def test_read_exactly(watcher, answers):
    """A reader may know how long the body is; JSON that is whole needs no end."""
    data = json.dumps(CHAT).encode()
    answers.answer(body(CHAT))
    async with aiohttp.ClientSession(answers.url) as session, session.post(PATH, data=json.dumps(ASKED)) as response:
        assert CHAT == json.loads(await response.content.readexactly(len(data)))

    assert RIGHT == watcher.counts
    assert "127.0.0.1" == watcher.requests[0].host


async def test_response_is_what_it_was(watcher, answers):
    """Its reader is aiohttp's, and says so."""
    answers.answer(body(CHAT))
    async with aiohttp.ClientSession() as session, session.post(answers.url + PATH, json=ASKED) as response:
        assert isinstance(response.content, StreamReader)
        assert "StreamReader" == type(response.content).__name__
        assert CHAT == await response.json()


async def test_closed_dropped_and_unread(watcher, answers):
    """None of these is final; an answer of which nothing was read is lost."""
    reply = events(CHAT_STREAM, size=50)
    answers.answer(reply)
    async with aiohttp.ClientSession() as session:
        async with session.post(answers.url + PATH, json=ASKED) as response:
            await response.content.read(10)
        response = await session.post(answers.url + PATH, json=ASKED)
        await response.content.read(10)
        response.close()
        async with session.post(answers.url + PATH, json=ASKED):
            pass

    assert [(None, False)] * 3 == watcher.counts
    assert [False, False, True] == [answer.is_lost for answer in watcher.answers]


@pytest.mark.filterwarnings("ignore:Unclosed response:ResourceWarning")
async def test_dropped(watcher, answers):
    """It is told of when it is collected, and nothing of ours keeps it."""
    answers.answer(events(CHAT_STREAM, size=50))
    async with aiohttp.ClientSession() as session:
        await (await session.post(answers.url + PATH, json=ASKED)).content.read(10)
        gc.collect()
    gc.collect()

    assert [(None, False)] == watcher.counts
    assert [] == [each for each in gc.get_objects() if isinstance(each, Exchange)]


async def test_cut_off(watcher, answers):
    """The client raises, and the answer is not final."""
    reply = body(CHAT, size=20)
    reply.pieces, reply.drops = reply.pieces[:3], True
    answers.answer(reply)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with session.post(answers.url + PATH, json=ASKED) as response:
                await response.read()

    assert [(None, False)] == watcher.counts


async def test_nothing_listens(watcher):
    """A request that never reached a server is not lost."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post("http://127.0.0.1:9" + PATH, json=ASKED)

    assert [False] == [answer.is_lost for answer in watcher.answers]


async def test_time_out_is_lost(watcher, answers):
    """The server answered, and billed."""
    late = body(CHAT)
    late.holds = threading.Event()
    answers.answer(late)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session:
        with pytest.raises(asyncio.TimeoutError):
            await session.post(answers.url + PATH, json=ASKED)
    late.holds.set()

    assert [True] == [answer.is_lost for answer in watcher.answers]


@contextlib.asynccontextmanager
async def gemini(answers):
    """Yield Google's real client."""
    client = genai.Client(api_key="made-up", http_options={"base_url": answers.url})
    yield client
    await client.aio.aclose()
    client.close()


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # theirs
async def test_google_genai(watcher, answers):
    """It is on httpx, and asynchronously on aiohttp where that is installed."""
    tier = {"x_gemini_service_tier": "Flex"}
    answers.answer(body(GEMINI, **tier), events(GEMINI_STREAM), body(GEMINI), events(GEMINI_STREAM))
    asked = {"model": "gemini-2.5-flash", "contents": "Hi"}
    async with gemini(answers) as client:
        client.models.generate_content(**asked, config={"tools": [{"google_search": {}}], "max_output_tokens": 9})
        list(client.models.generate_content_stream(**asked))
        await client.aio.models.generate_content(**asked)
        async for _ in await client.aio.models.generate_content_stream(**asked):
            pass

    assert RIGHT * 4 == watcher.counts
    assert ("flex", "gem-1") == (watcher.answers[0].usage.service_tier, watcher.answers[0].response_id)
    first = watcher.requests[0]
    assert ("gemini", "gemini-2.5-flash", 9, ["googleSearch"]) == (
        first.api, first.model, first.most_output_tokens, [tool.kind for tool in first.tools],
    )  # fmt: skip
    assert not any("made-up" in request.url for request in watcher.requests)
