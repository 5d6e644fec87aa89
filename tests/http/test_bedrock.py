import contextlib
import gc
import json
import threading

import aiobotocore.session
import anthropic
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ParamValidationError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from tests.support.answer_server import Reply, body
from tests.support.event_frames import chunk_frame, frame
from tests.support.provider_answers import MESSAGE, MESSAGE_STREAM

MODEL = "us.anthropic.claude-opus-4-8-v1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
PROMPT = [{"role": "user", "content": [{"text": "Hi"}]}]
INVOKED = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "messages": PROMPT})
CONVERSED = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120},
    "metrics": {"latencyMs": 5},
}
METRICS = {"inputTokenCount": 60, "outputTokenCount": 20, "cacheReadInputTokenCount": 40}
RIGHT = [((100, 20), True)]
SESSION = botocore.session.get_session()
KEYS = {"aws_access_key_id": "AK", "aws_secret_access_key": "made-up", "region_name": "us-east-1"}


def frames(*listed):
    """Return a reply of frames."""
    return Reply(list(listed), headers={"Content-Type": "application/vnd.amazon.eventstream"})


def conversed(*, upto=None):
    """Return a reply of ConverseStream's events."""
    events = [
        frame("messageStart", {"role": "assistant"}),
        frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Hello"}}),
        frame("messageStop", {"stopReason": "end_turn"}),
        frame("metadata", {"usage": CONVERSED["usage"], "metrics": {"latencyMs": 5}}),
    ]
    return frames(*events[:upto])


def invoked(*, upto=None):
    """Return a reply of InvokeModelWithResponseStream's chunks."""
    events = [*MESSAGE_STREAM[:-1], {**MESSAGE_STREAM[-1], "amazon-bedrock-invocationMetrics": METRICS}]
    return frames(*map(chunk_frame, events[:upto]))


@pytest.fixture
def bedrock(answers):
    """A real client whose endpoint is the loopback server."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=0.3)
    client = SESSION.create_client("bedrock-runtime", endpoint_url=answers.url, config=config, **KEYS)
    yield client
    client.close()


@contextlib.asynccontextmanager
async def async_bedrock(answers):
    """Yield a real asynchronous client."""
    session = aiobotocore.session.get_session()
    async with session.create_client("bedrock-runtime", endpoint_url=answers.url, **KEYS) as client:
        yield client


def test_converse(watcher, answers, bedrock):
    """The model is the one of the path, and an id as it is written in the call."""
    answers.answer(body(CONVERSED, x_amzn_requestid="req_1"))
    bedrock.converse(modelId=MODEL, messages=PROMPT, inferenceConfig={"maxTokens": 50})
    bedrock.converse(modelId=ARN, messages=PROMPT)

    assert RIGHT * 2 == watcher.counts
    assert [(MODEL, 50), (ARN, None)] == [(each.model, each.most_output_tokens) for each in watcher.requests]
    assert ("req_1", "converse", "aws") == (
        watcher.answers[0].request_id, watcher.requests[0].api, watcher.requests[0].provider,
    )  # fmt: skip


def test_converse_stream(watcher, answers, bedrock):
    """The usage is in the last event."""
    answers.answer(conversed())
    events = list(bedrock.converse_stream(modelId=MODEL, messages=PROMPT)["stream"])

    assert ["messageStart", "contentBlockDelta", "messageStop", "metadata"] == [next(iter(each)) for each in events]
    assert RIGHT == watcher.counts
    assert watcher.answers[0].streamed


def test_converse_stream_that_its_reader_takes_apart(watcher, answers, bedrock):
    """What is counted is what came, though langchain-aws takes the usage out of the event before the stream's end."""
    answers.answer(conversed())
    for event in bedrock.converse_stream(modelId=MODEL, messages=PROMPT)["stream"]:
        event.get("metadata", {}).pop("usage", None)

    assert RIGHT == watcher.counts


@pytest.mark.parametrize("way", ["read", "chunks", "lines", "readlines", "pieces"])
def test_invoke(watcher, answers, bedrock, way):
    """A body is read in several ways."""
    answers.answer(body(MESSAGE))
    stream = bedrock.invoke_model(modelId=MODEL, body=INVOKED)["body"]
    ways = {
        "read": stream.read,
        "chunks": lambda: b"".join(stream.iter_chunks(7)),
        "lines": lambda: b"".join(stream.iter_lines(7)),
        "readlines": lambda: b"".join(stream.readlines()),
        "pieces": lambda: b"".join(iter(lambda: stream.read(7), b"")),
    }

    assert MESSAGE == json.loads(ways[way]())
    assert RIGHT == watcher.counts


def test_a_guardrail_that_is_asked_for_is_seen(watcher, answers, bedrock):
    """Converse has it in its body, InvokeModel beside it."""
    guardrail = {"guardrailIdentifier": "g-1", "guardrailVersion": "1"}
    answers.answer(body(CONVERSED))
    bedrock.converse(modelId=MODEL, messages=PROMPT, guardrailConfig=guardrail)
    bedrock.converse(modelId=MODEL, messages=PROMPT)
    answers.answer(body(MESSAGE))
    bedrock.invoke_model(modelId=MODEL, body=INVOKED, **guardrail)["body"].read()
    bedrock.invoke_model(modelId=MODEL, body=INVOKED)["body"].read()

    assert [True, False] * 2 == [answer.request.is_guarded for answer in watcher.answers]
    assert [1, 0] * 2 == [len(answer.usage.doubts) for answer in watcher.answers]


def test_invoke_says_in_headers_what_some_bodies_do_not(watcher, answers, bedrock):
    """The headers are the bill of a body without a usage, read or not."""
    counted = {"x_amzn_bedrock_input_token_count": "100", "x_amzn_bedrock_output_token_count": "20"}
    answers.answer(body({"generations": [{"text": "Hello"}]}, **counted))
    bedrock.invoke_model(modelId="cohere.command-r-v1:0", body=json.dumps({"prompt": "Hi"}))["body"].read()
    bedrock.invoke_model(modelId="cohere.command-r-v1:0", body=json.dumps({"prompt": "Hi"}))["body"].close()

    assert RIGHT * 2 == watcher.counts


def test_invoke_stream(watcher, answers, bedrock):
    """Anthropic's events come in chunks; the last one's metrics do not push out the usage."""
    answers.answer(invoked())
    list(bedrock.invoke_model_with_response_stream(modelId=MODEL, body=INVOKED)["body"])

    assert RIGHT == watcher.counts


def begin(bedrock, reply):
    """Read the first event of a stream, and return the stream."""
    if reply is conversed:
        stream = bedrock.converse_stream(modelId=MODEL, messages=PROMPT)["stream"]
    else:
        stream = bedrock.invoke_model_with_response_stream(modelId=MODEL, body=INVOKED)["body"]
    next(iter(stream))
    return stream


@pytest.mark.parametrize("reply", [conversed, invoked])
def test_stream_that_is_closed_is_not_final(watcher, answers, bedrock, reply):
    """What came after the reader had enough is billed, too."""
    answers.answer(reply(upto=2))
    begin(bedrock, reply).close()

    assert [False] == [is_final for _, is_final in watcher.counts]


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # so it is without us
@pytest.mark.parametrize("reply", [conversed, invoked])
def test_stream_that_is_dropped_is_not_final(watcher, answers, bedrock, reply):
    """It is told of when it is collected."""
    answers.answer(reply(upto=2))
    begin(bedrock, reply)
    gc.collect()

    assert [False] == [is_final for _, is_final in watcher.counts]


def test_refusal_is_not_lost(watcher, answers, bedrock):
    """An error of the service is an answer."""
    answers.answer(body({"message": "slow down"}, status=429, x_amzn_errortype="ThrottlingException"))
    with pytest.raises(ClientError):
        bedrock.converse(modelId=MODEL, messages=PROMPT)

    assert [(429, False)] == [(answer.status, answer.is_lost) for answer in watcher.answers]


def test_time_out_is_lost(watcher, answers, bedrock):
    """The server answered, and billed."""
    late = body(CONVERSED)
    late.holds = threading.Event()
    answers.answer(late)
    with pytest.raises(ReadTimeoutError):
        bedrock.converse(modelId=MODEL, messages=PROMPT)
    late.holds.set()

    assert [(True, 0)] == [(answer.is_lost, answer.lost_attempts) for answer in watcher.answers]


def test_attempts_that_botocore_makes_again_are_told(watcher, answers):
    """Its retries are below the call, and one that timed out was billed; one that was refused was not."""
    late = body(CONVERSED)
    late.holds = threading.Event()
    answers.answer(late, body({"message": "slow down"}, status=429), body(CONVERSED))
    config = Config(retries={"total_max_attempts": 3}, read_timeout=0.3)
    with contextlib.closing(
        SESSION.create_client("bedrock-runtime", endpoint_url=answers.url, config=config, **KEYS)
    ) as client:
        client.converse(modelId=MODEL, messages=PROMPT)
    late.holds.set()

    assert RIGHT == watcher.counts
    assert [1] == [answer.lost_attempts for answer in watcher.answers]


def test_answer_that_botocore_cannot_parse_is_read(watcher, answers, bedrock):
    """It was billed, although the client raises."""
    content = [{"text": "ok", "citationsContent": {"content": [{"text": "ok"}], "citations": []}}]
    answers.answer(body({**CONVERSED, "output": {"message": {"role": "assistant", "content": content}}}))
    with pytest.raises(ResponseParserError):
        bedrock.converse(modelId=MODEL, messages=PROMPT)

    assert RIGHT == watcher.counts
    assert [("ResponseParserError", False)] == [(answer.error, answer.is_lost) for answer in watcher.answers]


def test_wrong_arguments_are_not_lost(watcher, bedrock):
    """Nothing was sent."""
    with pytest.raises(ParamValidationError):
        bedrock.converse(modelId=MODEL, messages="Hi")

    assert [] == [answer for answer in watcher.answers if answer.is_lost]


async def test_async_clients(watcher, answers):
    """aiobotocore sends by aiohttp, and a call is one request all the same."""
    async with async_bedrock(answers) as client:
        answers.answer(body(CONVERSED), conversed(), body(MESSAGE), invoked())
        await client.converse(modelId=MODEL, messages=PROMPT)
        async for _ in (await client.converse_stream(modelId=MODEL, messages=PROMPT))["stream"]:
            pass
        stream = (await client.invoke_model(modelId=MODEL, body=INVOKED))["body"]
        assert MESSAGE == json.loads(await stream.read())
        async for _ in (await client.invoke_model_with_response_stream(modelId=MODEL, body=INVOKED))["body"]:
            pass

    assert RIGHT * 4 == watcher.counts


@pytest.mark.parametrize("size", [7, None])
def test_anthropics_own_bedrock_client(watcher, answers, size):
    """It speaks to Bedrock by httpx2, and its streams are binary frames."""
    stream = invoked()
    data = b"".join(stream.pieces)
    stream.pieces = [data[start : start + (size or len(data))] for start in range(0, len(data), size or len(data))]
    answers.answer(body(MESSAGE), stream)
    asked = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    with anthropic.AnthropicBedrock(
        api_key="made-up", aws_region="us-east-1", base_url=answers.url, max_retries=0
    ) as client:
        client.messages.create(**asked)
        list(client.messages.create(**asked, stream=True))

    assert RIGHT * 2 == watcher.counts
    assert [MODEL, MODEL] == [request.model for request in watcher.requests]
