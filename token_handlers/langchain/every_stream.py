"""Makes every ChatOpenAI stream of the process ask for its usage: what `report_stream_usage` does for one model."""

import functools
from types import ModuleType
from typing import Any


def attach(module: ModuleType) -> None:
    """Change the class in langchain_openai's module; a model that was told to stream without usage still does."""
    kind = module.BaseChatOpenAI
    decide = kind._should_stream_usage  # noqa: SLF001 (LangChain has no public place for it)

    @functools.wraps(decide)
    def asks(self: Any, stream_usage: Any = None, **kwargs: Any) -> bool:
        options = kwargs.get("stream_options") or self.model_kwargs.get("stream_options")
        if stream_usage is None and options is None and "stream_usage" not in self.model_fields_set:
            return True
        return bool(decide(self, stream_usage, **kwargs))

    kind._should_stream_usage = asks  # noqa: SLF001 (as above)
