"""The calls of decision models, which LangChain's callbacks see as chains whose run_type is "llm"."""

import json
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage

from token_handlers.langchain.calls import Run
from token_handlers.langchain.text import message_text
from token_handlers.tokenizer.estimates import Estimate, estimate_prompt, prepare


def is_decision(run_type: object, metadata: Mapping[str, Any] | None) -> bool:
    """Return whether a chain that starts is a decision model's call, which says the name of its model."""
    return run_type == "llm" and metadata is not None and "ls_model_name" in metadata


class DecisionRun(Run):
    """One call of a decision model; its prompt is the request alone, with a state and questions."""

    is_decision = True

    def estimate_input(self) -> Estimate:
        """Return the estimated tokens of the state and the questions."""
        self.describe()
        prepare(self.counted_as)
        text, media = decision_text(self.prompt[0])
        return estimate_prompt([("user", text)], (), self.counted_as, media=media)

    def prompt_bound(self) -> int | None:
        """Return None: a state is of any shape, and is estimated."""
        return None

    def is_cached(self) -> bool:
        """Return False: LangChain has no cache for decisions."""
        return False


def decision_text(content: Any) -> tuple[str, bool]:
    """Return a request's or an answer's text, and whether images, audio or files were left out of it."""
    left_out = False

    def plain(value: Any) -> Any:
        nonlocal left_out
        if isinstance(value, BaseMessage):
            text, media = message_text(value)
            left_out = left_out or media
            return text
        return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else str(value)

    text = content if isinstance(content, str) else json.dumps(content, default=plain, ensure_ascii=False)
    return text, left_out
