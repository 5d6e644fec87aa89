"""Fuzz the payload readers, guided by coverage.

    pip install atheris && python tests/fuzz_payloads.py -max_total_time=60

Random bytes become JSON, or one of the sample payloads with some of its values replaced: whatever it is, the readers
say what it used or that it is no usage, what they say is a Usage, and the short ways say what the long ones do.
"""

import copy
import json
import sys

import atheris

with atheris.instrument_imports(include=["token_handlers.payloads"]):
    from token_handlers import Usage, usage_from_payload
    from token_handlers.payloads import read_any, read_message, read_payload, read_usage_metadata

from tests.support.payload_samples import SAMPLES

JUNK = (None, True, -1, 0, 7, 1.5, float("nan"), 2**70, "", "12", [], {}, [[]], {"usage": {}}, b"x")


def junk(data):
    """Return a value of any kind."""
    choice = data.ConsumeIntInRange(0, len(JUNK) + 1)
    if choice < len(JUNK):
        return copy.deepcopy(JUNK[choice])
    return data.ConsumeInt(8) if choice == len(JUNK) else data.ConsumeUnicode(8)


def mutate(value, data):
    """Replace some values of a payload, and drop some of its keys."""
    if data.remaining_bytes() and data.ConsumeIntInRange(0, 15) == 0:
        return junk(data)
    if isinstance(value, dict):
        return {key: mutate(each, data) for key, each in value.items() if data.ConsumeIntInRange(0, 31)}
    return [mutate(each, data) for each in value] if isinstance(value, list) else value


def one_input(raw):
    """Read one input in every way."""
    data = atheris.FuzzedDataProvider(raw)
    if data.ConsumeBool():
        payload = mutate(SAMPLES[data.ConsumeIntInRange(0, len(SAMPLES) - 1)].payload, data)
    else:
        try:
            payload = json.loads(data.ConsumeUnicode(atheris.ALL_REMAINING))
        except (ValueError, RecursionError):
            return
    usage = usage_from_payload(payload)
    reading = read_payload(payload, "openai")
    assert usage is None or isinstance(usage, Usage)
    assert reading is None or Usage(**reading.counts).total_tokens >= 0
    assert reading == read_any(payload, "openai")
    if isinstance(payload, dict):
        read_usage_metadata(payload)
        read_message(payload, payload, content=payload.get("content"), additional_kwargs=payload)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
