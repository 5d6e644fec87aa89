"""What SDKs ask that is not billed by tokens alone, or later: images, sound, batches."""

import anthropic
import openai
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from google import genai

from tests.support.answer_server import Reply, answering, body, events
from token_handlers import Budget, BudgetExceeded, track_tokens

PICTURE = ("a.png", b"\x89PNG", "image/png")
SOUND = ("a.mp3", b"abc", "audio/mpeg")
DRAWN = {
    "input_tokens": 110,
    "output_tokens": 272,
    "total_tokens": 382,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 100},
}
IMAGE = {"created": 1, "data": [{"b64_json": "aGk=" * 20_000}], "usage": DRAWN}
HEARD = {"text": "Hi", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 9, "total_tokens": 23}}
BATCH = {"id": "batch_1", "object": "batch", "status": "validating", "usage": {"input_tokens": 0, "output_tokens": 0}}
ASKED: MessageCreateParamsNonStreaming = {
    "model": "claude-opus-4-8",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "Hi"}],
}


@pytest.fixture(scope="module")
def server():
    """A loopback server."""
    with answering(body({})) as running:
        yield running


def by_openai(server, ask):
    """Ask by the openai package."""
    with openai.OpenAI(api_key="sk-1", base_url=server.url + "/v1", max_retries=0) as client:
        return ask(client)


def by_google(server):
    """Send a batch by the google-genai package."""
    with genai.Client(api_key="key", http_options={"base_url": server.url}) as client:
        client.batches.create(model="gemini-2.5-flash", src=[{"contents": [{"parts": [{"text": "Hi"}]}]}])


def by_anthropic(server):
    """Send a batch by the anthropic package."""
    with anthropic.Anthropic(api_key="sk-1", base_url=server.url, max_retries=0) as client:
        client.messages.batches.create(requests=[{"custom_id": "1", "params": ASKED}])


COUNTED = {
    "generate": (lambda client: client.images.generate(model="gpt-image-1.5", prompt="A cat"), body(IMAGE)),
    "edit": (lambda client: client.images.edit(model="gpt-image-1.5", prompt="A cat", image=PICTURE), body(IMAGE)),
    "stream": (
        lambda client: list(client.images.generate(model="gpt-image-1.5", prompt="A cat", stream=True)),
        events([{"type": "image_generation.completed", "b64_json": "aGk=", "usage": DRAWN}], named=True),
    ),
}


@pytest.mark.parametrize("way", COUNTED)
def test_images(server, way):
    """An image's tokens cost 32, not the 10 of text; the picture that goes in costs 8 and its prompt 5."""
    ask, reply = COUNTED[way]
    server.answer(reply)
    with track_tokens() as counter:
        by_openai(server, ask)

    assert (1, 110, 272, 0) == (
        counter.successful_requests, counter.prompt_tokens, counter.completion_tokens, counter.estimated_requests,
    )  # fmt: skip
    assert 0.009554 == counter.total_cost


UNCOUNTED = {
    "an image by size": (
        lambda server: by_openai(server, lambda client: client.images.generate(model="dall-e-3", prompt="A cat")),
        body({"created": 1, "data": [{"url": "x"}]}),
    ),
    "speech": (
        lambda server: by_openai(
            server, lambda client: client.audio.speech.create(model="tts-1", voice="a", input="Hi")
        ),
        Reply([b"RIFF"], headers={"Content-Type": "audio/mpeg"}),
    ),
    "a transcription": (
        lambda server: by_openai(
            server, lambda client: client.audio.transcriptions.create(model="gpt-4o-transcribe", file=SOUND)
        ),
        body(HEARD),
    ),
    "OpenAI's batch": (
        lambda server: by_openai(
            server,
            lambda client: client.batches.create(
                input_file_id="f", endpoint="/v1/chat/completions", completion_window="24h"
            ),
        ),
        body(BATCH),
    ),
    "Anthropic's batch": (by_anthropic, body({"id": "msgbatch_1", "type": "message_batch"})),
    "Gemini's batch": (by_google, body({"name": "batches/1", "metadata": {"state": "BATCH_STATE_PENDING"}})),
}


@pytest.mark.parametrize("way", UNCOUNTED)
def test_what_has_no_tokens_is_an_estimate(server, way):
    """Sound, images that are billed by their size, and batches, which are billed when they have run."""
    ask, reply = UNCOUNTED[way]
    server.answer(reply)
    with track_tokens() as counter:
        ask(server)

    assert (1, 1) == (counter.successful_requests, counter.estimated_requests)


@pytest.mark.parametrize("way", ["an image by size", "Anthropic's batch"])
def test_budgets(server, way):
    """What is over the limit is not sent."""
    ask, reply = UNCOUNTED[way]
    server.answer(reply)
    before = len(server.asked)
    with track_tokens(budget=Budget(max_requests=1)):
        ask(server)
        with pytest.raises(BudgetExceeded):
            ask(server)

    assert 1 == len(server.asked) - before


def test_moderation_is_free(server):
    """Nothing is billed for it."""
    server.answer(body({"id": "m", "model": "omni-moderation-latest", "results": []}))
    with track_tokens() as counter:
        by_openai(server, lambda client: client.moderations.create(input="Hi"))

    assert 0 == counter.successful_requests
