"""Amazon's binary event stream, as Bedrock sends it."""

import json
import struct
import zlib
from base64 import b64encode


def frame(kind, payload):
    """Return one event's frame."""
    named = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in named.items()
    )
    data = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(data), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + data
    return message + struct.pack(">I", zlib.crc32(message))


def chunk_frame(event):
    """Return the frame of an InvokeModel stream's chunk, which has an event in it."""
    return frame("chunk", {"bytes": b64encode(json.dumps(event).encode()).decode()})
