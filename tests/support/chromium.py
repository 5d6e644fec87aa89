"""Headless Chromium, driven through its DevTools protocol over a pipe, and what its screenshots show."""

import base64
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " ")}
"""Keys by their name: their code, and the text that they enter."""

_WITH_PIPES = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""A program that becomes another one, which reads requests from its descriptor 3 and writes answers to 4."""


class Browser:
    """A page in Chromium: a person's keys and clicks, what scripts see, pictures and paper."""

    def __init__(self, profile: Path) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        command = [*CHROMIUM, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WITH_PIPES, str(requests), str(answers), *command],
            pass_fds=(requests, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(requests)
        os.close(answers)
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        """What Chromium told of its own accord."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._requests)  # Chromium ends when nobody can ask it any more
        os.close(self._answers)
        self._process.wait(timeout=30)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and return its result; what else comes in is kept as an event."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(
        self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True
    ) -> None:
        """Open a file and wait until it is loaded."""
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def run(self, expression: str) -> Any:
        """Return what a JavaScript expression gives."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press one of KEYS."""
        code, text = KEYS[key]
        given = {"key": key, "windowsVirtualKeyCode": code, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **given)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def write(self, text: str) -> None:
        """Enter a text where the focus is."""
        self.call("Input.insertText", text=text)

    def click(self, element: str) -> None:
        """Click with the mouse in the middle of an element that a JavaScript expression gives."""
        self.run(f"{element}.scrollIntoView({{block: 'center'}})")
        box = self.run(f"{element}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def spoken(self) -> list[tuple[str, str]]:
        """Return the roles and names of all that a screen reader finds."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]

    def addresses(self) -> list[str]:
        """Return the addresses that the page asked for since it was opened."""
        requests = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in requests]

    def complaints(self) -> list[str]:
        """Return the errors that the page's scripts and policies gave since it was opened."""
        logged = [event["params"] for event in self.events if event.get("method") == "Log.entryAdded"]
        thrown = [event["params"] for event in self.events if event.get("method") == "Runtime.exceptionThrown"]
        return [each["entry"]["text"] for each in logged] + [str(each["exceptionDetails"]) for each in thrown]

    def picture(self, *, whole: bool = True) -> bytes:
        """Return a PNG of the page, or of the part of it that the window shows."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def paper(self) -> bytes:
        """Return the page as a PDF on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True, "printBackground": True}
        return base64.b64decode(self.call("Page.printToPDF", **size)["data"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._answers, 1 << 16)
            if not received:
                raise RuntimeError("Chromium has ended")
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


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
