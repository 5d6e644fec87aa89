"""Headless Chromium, and what its screenshots show."""

import struct
import zlib

CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def pixels(png: bytes) -> tuple[list[bytes], int]:
    """Return the rows of an 8-bit PNG without interlacing, as bytes, and how many bytes a pixel has."""
    width, height, _, colors = struct.unpack(">IIBB", png[16:26])
    data, position = b"", 8
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        if kind == b"IDAT":
            data += png[position + 8 : position + 8 + length]
        position += 12 + length
    size = {2: 3, 6: 4}[colors]
    raw, stride = zlib.decompress(data), width * size
    rows: list[bytes] = []
    before = bytearray(stride)
    for start in range(0, height * (stride + 1), stride + 1):
        row = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], row, before, size)
        rows.append(bytes(row))
        before = row
    return rows, size


def _unfilter(kind: int, row: bytearray, before: bytearray, size: int) -> None:
    """Undo one of PNG's filters, in place."""
    for index in range(len(row)):
        left = row[index - size] if index >= size else 0
        corner = before[index - size] if index >= size else 0
        above = before[index]
        guess = left + above - corner
        nearest = min((left, above, corner), key=lambda each: abs(guess - each))
        row[index] = (row[index] + (0, left, above, (left + above) // 2, nearest)[kind]) % 256
