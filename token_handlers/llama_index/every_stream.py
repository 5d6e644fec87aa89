"""Makes every stream of LlamaIndex's OpenAI ask for its usage: what `report_stream_usage` does for one LLM."""

import functools
from types import ModuleType
from typing import Any


def attach(module: ModuleType) -> None:
    """Change the class in LlamaIndex's module; an LLM that has stream_options of its own keeps them."""
    kind = module.OpenAI
    make = kind._get_model_kwargs  # noqa: SLF001 (LlamaIndex has no public place for it)

    @functools.wraps(make)
    def asking(self: Any, **kwargs: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = make(self, **kwargs)
        if arguments.get("stream") is True:
            arguments.setdefault("stream_options", {"include_usage": True})
        return arguments

    kind._get_model_kwargs = asking  # noqa: SLF001 (as above)
