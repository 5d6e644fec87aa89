"""OpenAI's vocabularies for tiktoken, from a file on this machine. Nothing here can reach the network.

tiktoken's own loading can: where its cache has no whole copy it downloads one, there is no switch against that, and a
look at the cache beforehand could be too early. It does not read llama-index-core's copy either. So the file is read
here, and the two patterns, which it would load with it, are repeated.
"""

import hashlib
import os
import re
import sys
import tempfile
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tiktoken import Encoding


class _Published(NamedTuple):
    file: str  # the name in tiktoken's cache, which is the SHA-1 of its address
    sha256: str
    pattern: str  # splits a text into what is tokenized on its own


_PUBLISHED = {
    "o200k_base": _Published(
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "cl100k_base": _Published(
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
}

_loaded: dict[str, "Encoding | None"] = {}
_loading = threading.RLock()  # the garbage collector may end a call, and so estimate one, in the middle of it


def _folders() -> Iterator[Path]:
    """Yield where vocabularies may be: tiktoken's cache, then what llama-index-core ships."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if folder := os.environ.get(variable):
            yield Path(folder)
    with suppress(OSError):  # nowhere to write
        yield Path(tempfile.gettempdir(), "data-gym-cache")
    with suppress(ValueError):  # a module of that name without a spec
        spec = find_spec("llama_index")  # which does not import it
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder, "core", "_static", "tiktoken_cache")


def _read(published: _Published) -> bytes | None:
    """Return the first copy of a vocabulary that is whole, or None."""
    for folder in _folders():
        try:
            data = (folder / published.file).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() == published.sha256:
            return data
    return None


def _is_linear() -> bool:
    """Return whether the tiktoken that is imported takes linear time: before 0.13, a long run took it seconds."""
    version = re.match(r"(\d+)\.(\d+)", getattr(sys.modules.get("tiktoken"), "__version__", ""))
    return version is not None and (int(version[1]), int(version[2])) >= (0, 13)


def _build(name: str) -> "Encoding | None":
    try:
        from tiktoken import Encoding
    except ImportError:
        return None
    published = _PUBLISHED[name]
    if not _is_linear() or (data := _read(published)) is None:
        return None
    columns = data.split()
    ranks = dict(zip(map(b64decode, columns[::2]), map(int, columns[1::2]), strict=True))
    return Encoding(name, pat_str=published.pattern, mergeable_ranks=ranks, special_tokens={})


def load(name: str) -> "Encoding | None":
    """Return an encoding, loaded if need be, which takes about 0.3 s and 75 MB; None without tiktoken or vocabulary."""
    with _loading:
        if (found := loaded(name)) is None:
            found = _loaded[name] = _build(name)
    return found


def loaded(name: str) -> "Encoding | None":
    """Return an encoding that was loaded here or by the application, or None, at once."""
    if found := _loaded.get(name):
        return found
    registry = sys.modules.get("tiktoken.registry")
    found = getattr(registry, "ENCODINGS", {}).get(name)
    return found if found is not None and _is_linear() else None


def may_wait() -> bool:
    """Return whether nothing but the caller waits for it here: on the main thread, outside any event loop.

    tiktoken builds an encoding in one go of about 0.2 s that holds the GIL, so another thread would not spare a loop.
    """
    from asyncio import get_running_loop

    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        get_running_loop()
    except RuntimeError:
        return True
    return False
