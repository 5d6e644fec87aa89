"""Estimated against counted tokens, and what an estimate costs: `python tests/benchmarks/tokenizer.py`.

The texts were not used for fitting. UsageAttributes is tiktoken with the vocabularies that llama-index-core ships.
"""

import base64
import random
import uuid
from pathlib import Path
from statistics import mean, median
from timeit import repeat
from typing import TYPE_CHECKING

from token_handlers.tokenizer.byte_classes import count_by_class
from token_handlers.tokenizer.vocabularies import load

if TYPE_CHECKING:
    from tiktoken import Encoding

TEXTS = Path(__file__).parent / "texts"


def texts() -> dict[str, str]:
    """Return texts by what they are: languages, code, data, and what has no words at all."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in sorted(TEXTS.glob("*.txt"))}
    chance = random.Random(42)
    return found | {
        "base64": base64.b64encode(chance.randbytes(1_000)).decode(),
        "base64, in lines": base64.encodebytes(chance.randbytes(1_000)).decode(),
        "hex": chance.randbytes(500).hex(),
        "uuids": "\n".join(str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(30)),
    }


def errors(text: str, o200k: "Encoding", cl100k: "Encoding") -> dict[str, float]:
    """Return how far estimates are off, as a share of what is counted."""
    newer, older = len(o200k.encode_ordinary(text)), len(cl100k.encode_ordinary(text))
    return {
        "o200k": count_by_class(text) / newer - 1,
        "chars/4": len(text) / 4 / newer - 1,
        "cl100k": count_by_class(text, "cl100k") / older - 1,
    }


def microseconds(text: str, encoding: "Encoding") -> tuple[float, float]:
    """Return what 500 tokens of such a text take by class, and by tiktoken."""
    text *= 1 + 500 // len(encoding.encode_ordinary(text))
    share = 500 / len(encoding.encode_ordinary(text)) / 200 * 1e6
    by_class = min(repeat(lambda: count_by_class(text), number=200, repeat=5))
    encoded = min(repeat(lambda: encoding.encode_ordinary(text), number=200, repeat=5))
    return by_class * share, encoded * share


def main() -> None:
    """Print a line per text and the summary."""
    o200k, cl100k = load("o200k_base"), load("cl100k_base")
    if o200k is None or cl100k is None:
        raise SystemExit("this needs tiktoken and llama-index-core: pip install -e '.[dev]'")
    found = {name: errors(text, o200k, cl100k) for name, text in texts().items()}
    costs = {name: microseconds(text, o200k) for name, text in texts().items()}
    columns = ("o200k", "chars/4", "cl100k")
    print(" " * 17, *(f"{column:>8}" for column in columns), "µs/500 tokens, tiktoken's")
    for name, line in found.items():
        print(f"{name:17}", *(f"{line[column]:+8.1%}" for column in columns), "{:8.1f} {:8.1f}".format(*costs[name]))
    for title, summary in (("median", median), ("mean", mean), ("largest", max)):
        print(f"{title:17}", *(f"{summary(abs(line[column]) for line in found.values()):8.1%}" for column in columns))
    print(
        f"by class: {median(encoded / by_class for by_class, encoded in costs.values()):.1f} times as fast as tiktoken"
    )


if __name__ == "__main__":
    main()
