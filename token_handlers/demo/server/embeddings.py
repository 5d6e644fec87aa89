"""POST /embeddings."""

import base64
import math
import struct
from collections import Counter
from typing import Any
from zlib import crc32

from token_handlers.demo.server.answers import Ask, Json, split
from token_handlers.demo.server.work import Work

DIMENSIONS = 64


def read(body: Json) -> Ask:
    """The ask of a request with one input or several, as text or token ids."""
    inputs = _inputs(body["input"])
    return Ask(model=body["model"], prompt_tokens=sum(map(len, inputs)), choices=0, billed_choices=0, body=body)


def whole(work: Work) -> dict[str, Any]:
    """A vector for each input; texts that share words have similar ones."""
    body = work.ask.body
    size, packed = body.get("dimensions") or DIMENSIONS, body.get("encoding_format") == "base64"
    vectors = [_vector(one, size) for one in _inputs(body["input"])]
    data = [
        {"object": "embedding", "index": index, "embedding": _pack(vector) if packed else vector}
        for index, vector in enumerate(vectors)
    ]
    told = {"prompt_tokens": work.prompt_tokens, "total_tokens": work.prompt_tokens}
    usage = {} if work.modes.usage == "never" else {"usage": told}
    model = {} if work.model is None else {"model": work.model}
    return {"object": "list", "data": data, **model, **usage}


def _inputs(given: str | list[Any]) -> list[tuple[str, ...]]:
    several = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    return [split(one) if isinstance(one, str) else tuple(map(str, one)) for one in several]


def _vector(tokens: tuple[str, ...], size: int) -> list[float]:
    places = Counter(crc32(token.strip().lower().encode()) % size for token in tokens or ("",))
    length = math.sqrt(sum(number * number for number in places.values()))
    return [places[place] / length for place in range(size)]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
