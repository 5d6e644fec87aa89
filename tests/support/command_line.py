"""The command line in a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

COMMAND = (sys.executable, "-m", "token_handlers")

CALL = """
import sys
import httpx

def ask(text="hello"):
    question = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{sys.argv[1]}/chat/completions", json=question).json()["choices"][0]["message"]["content"]
"""
"""The beginning of a program whose first argument is the server's address, without a framework: that takes seconds."""

LANGCHAIN_CALL = """
import sys
from langchain_openai import ChatOpenAI

def ask(text="hello"):
    return ChatOpenAI(model="gpt-4o-mini", base_url=sys.argv[1], api_key="none").invoke(text).content
"""
"""The same with LangChain."""


def run_command(
    *arguments: object, cwd: Path | None = None, text: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run token-handlers to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        check=False,
        cwd=cwd,
        encoding="utf-8",
        env={**os.environ, **variables},
        input=text,
        timeout=120,
    )


@contextlib.contextmanager
def start_command(*arguments: object, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start token-handlers with pipes to it and from it, and SIGINT as in a terminal, which background jobs ignore.

    A test that fails kills it and what it has started; one that passes has waited for its end.
    """
    words = [*COMMAND, *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(words, cwd=cwd, encoding="utf-8", start_new_session=True, **pipes)
    finally:
        signal.signal(signal.SIGINT, ignored)
    with process:
        try:
            yield process
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
