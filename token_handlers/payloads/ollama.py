"""Models one runs: Ollama's API, and IBM watsonx's text generation."""

from token_handlers.payloads.fields import Fields, items
from token_handlers.payloads.reported import Hint, ReportedUsage, add, count, first, reported


def read_ollama(response: Fields, hint: Hint) -> ReportedUsage | None:
    """Ollama's chat, generate and embed; older versions leave the prompt out where it was cached."""
    return reported(
        input_tokens=count(response.get("prompt_eval_count")), output_tokens=count(response.get("eval_count"))
    )


def read_watsonx(response: Fields, hint: Hint) -> ReportedUsage | None:
    """Text generation's counts, by themselves or per result."""
    results = list(items(response, "results")) or [response]
    return reported(
        input_tokens=add(*(first(each, "input_token_count") for each in results)),
        output_tokens=add(*(first(each, "generated_token_count") for each in results)),
    )
