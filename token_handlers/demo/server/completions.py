"""POST /completions, the legacy text endpoint."""

from collections.abc import Iterator
from typing import Any

from token_handlers.demo.server.answers import Ask, Json, Message, count
from token_handlers.demo.server.work import Chunk, Step, Work, chunks, usage_object


def read(body: Json) -> Ask:
    """The ask of a request with one prompt or several, as text or token ids; best_of is billed for each of them."""
    prompt = body.get("prompt") or ""
    prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    choices, best_of = body.get("n") or 1, body.get("best_of") or 1
    if body.get("stream") and best_of > 1:
        raise ValueError("best_of cannot be streamed")
    return Ask(
        model=body["model"],
        prompt_tokens=sum(count(one) if isinstance(one, str) else len(one) for one in prompts),
        messages=tuple(Message("user", one) for one in prompts if isinstance(one, str)),
        limit=body.get("max_tokens"),
        choices=choices * len(prompts),
        billed_choices=max(choices, best_of) * len(prompts),
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def whole(work: Work) -> dict[str, Any]:
    """The answer in one piece: the choices of the first prompt, then those of the next."""
    finish = work.answer.end("stop", "length", "stop")
    choices = [_choice(index, work.answer.text, finish) for index in range(work.ask.choices)]
    usage = {} if work.modes.usage == "never" else {"usage": usage_object(work, work.counts())}
    return {**work.envelope("cmpl", "text_completion"), "choices": choices, **usage}


def stream(work: Work) -> Iterator[Chunk]:
    """The answer's chunks: a piece each, the reason of the end, and usage where it is stated."""
    return chunks(work, work.envelope("cmpl", "text_completion"), _steps)


def _steps(work: Work, index: int) -> Iterator[Step]:
    for piece in work.answer.pieces:
        yield Step(_choice(index, piece, None), 1, piece=True)
    yield Step(_choice(index, "", work.answer.end("stop", "length", "stop")))


def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
