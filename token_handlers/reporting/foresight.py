"""What a call will use and cost, before it is made: what a budget would reserve for it, and the least that it costs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from token_handlers.budget.tool_fees import NO_FEES, AllowedFees, allowed_fees
from token_handlers.counter.tables import usd
from token_handlers.pricing.sellers import Sold, UnknownModel, find_seller
from token_handlers.tokenizer.estimates import Estimate, estimate_prompt, estimate_tokens, prepare
from token_handlers.tokenizer.plain_messages import Pairs, message_text, role_of
from token_handlers.tracking.reservations import foreseen_price

_ENDLESS = "the answer may be of any length: max_tokens bounds it"
_MEDIA = "images, audio and files in the prompt are not counted"
_TOOLS = "each tool that the provider bills is in the upper end as often as the request allows, at least once"


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """Tokens and USD of a call before it is made, from the least to the most; None is not known, and `reason` says why.

    ``method`` is how the prompt was counted, such as "tiktoken:o200k_base". ``doubts`` say what the numbers leave out.
    """

    model: str
    provider: str | None
    input_tokens: int
    min_output_tokens: int
    max_output_tokens: int | None
    min_cost: Decimal | None
    max_cost: Decimal | None
    reason: str | None
    method: str
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        most = "any number of" if self.max_output_tokens is None else f"{self.max_output_tokens:,}"
        output = "" if self.max_output_tokens == 0 else f", {self.min_output_tokens:,} to {most} output tokens"
        cost = from_to(self.min_cost, self.max_cost)
        return f"{self.model}: {self.input_tokens:,} input tokens ({self.method}){output}, {cost} USD"


def from_to(least: Decimal | None, most: Decimal | None) -> str:
    """Return an interval of USD for people, or the one amount that it is."""
    return usd(least) if least == most else f"{usd(least)} to {usd(most)}"


def estimate(
    model: str,
    messages: object,
    *,
    tools: Iterable[object] = (),
    max_tokens: int | None = None,
    provider: str | None = None,
    base_url: str | None = None,
    service_tier: str | None = None,
) -> CallEstimate:
    """Return what a call would use and cost, from the least to the most, without making it.

    ``messages`` is a text, a message or a list of them: LangChain's, LlamaIndex's, (role, text) pairs, or mappings as
    the providers' APIs take them; for an embedding model a text or a list of texts. ``tools`` are schemas, or the tools
    of either framework. ``max_tokens`` bounds the answer: without it only the least is known. A model is named as in
    `set_price`, or as "openai/gpt-4o-mini".

    It counts as budgets do before a call: by tiktoken where its vocabulary is on this machine, else by the bytes, and
    the most is what a `Budget` reserves. Nothing is sent or downloaded.
    """
    if not isinstance(model, str) or not model:
        raise TypeError(f"estimate() takes a model's name, such as 'gpt-4o-mini', not {type(model).__name__}")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 0):
        raise ValueError(f"max_tokens must be a number of tokens, 0 or more, not {max_tokens!r}")
    embeds = "embed" in model.lower()
    texts, media = ([], False) if embeds else _prompt(messages)
    sold, reason = _sold(model, provider, base_url, service_tier)
    if embeds:
        counted, fees = _of_texts(messages, sold.model), NO_FEES
    else:
        schemas = [_schema(tool) for tool in tools]
        prepare(sold.model)
        counted, fees = estimate_prompt(texts, schemas, sold.model, media=media), allowed_fees(schemas)
    return _priced(
        sold,
        counted,
        0 if embeds else max_tokens,
        fees,
        reason=reason,
        base_url=base_url,
        service_tier=service_tier,
        media=media,
    )


def _priced(
    sold: Sold,
    counted: Estimate,
    most: int | None,
    fees: AllowedFees,
    *,
    reason: str | None = None,
    base_url: str | None = None,
    service_tier: str | None = None,
    media: bool = False,
) -> CallEstimate:
    """Return the estimate of a prompt that is counted, with an answer of at most so many tokens."""

    def price(output: int, fees: AllowedFees) -> tuple[Decimal | None, tuple[str, ...]]:
        tokens = {"input_tokens": counted.tokens, "output_tokens": output}
        found = foreseen_price(tokens, fees, *sold, base_url=base_url, service_tier=service_tier, warns=False)
        return (None, ()) if found is None else (found.cost, found.doubts)

    (least, doubts), (greatest, more) = price(0, NO_FEES), price(most or 0, fees)
    said = [*doubts, *more, *([_MEDIA] if media else []), *([_TOOLS] if fees.counts else [])]
    if least is not None and most is None:
        reason = _ENDLESS
    elif least is None:
        reason = reason or f"no price is known for {sold.model!r}"
    return CallEstimate(
        model=sold.model,
        provider=sold.provider,
        input_tokens=counted.tokens,
        min_output_tokens=0,
        max_output_tokens=most,
        min_cost=least,
        max_cost=None if most is None else greatest,
        reason=reason,
        method=counted.method,
        doubts=tuple(dict.fromkeys(said)),
    )


def _sold(model: str, provider: str | None, base_url: str | None, service_tier: str | None) -> tuple[Sold, str | None]:
    try:
        return find_seller(model, provider, base_url=base_url, service_tier=service_tier)[0], None
    except UnknownModel as error:
        return Sold(model, provider), str(error)


def _of_texts(messages: object, model: str) -> Estimate:
    """Return the tokens of texts to embed, with blanks for newlines as OpenAI's clients send them."""
    texts = (
        [messages] if isinstance(messages, str) else list(messages) if isinstance(messages, Iterable) else [messages]
    )
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"an embedding model takes a text or a list of texts, not {type(text).__name__}")
    prepare(model)
    counted = [estimate_tokens(str(text).replace("\n", " "), model) for text in texts]
    return Estimate(sum(each.tokens for each in counted), counted[0].method if counted else "none")


def _prompt(messages: object) -> tuple[Pairs, bool]:
    """Return each message's role and text, and whether images, audio or files were left out."""
    to_messages = getattr(messages, "to_messages", None)  # LangChain's prompt values
    if callable(to_messages):
        messages = to_messages()
    pairs: Pairs = []
    media = False
    for message in _listed(messages):
        role, text, left_out = _read(message)
        pairs.append((role, text))
        media = media or left_out
    return pairs, media


def _listed(messages: object) -> Iterable[object]:
    """Return the messages where there are several, else the one as a list."""
    is_one = isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable)
    return [messages] if is_one or _framework(messages) is not None else messages  # type: ignore[return-value] # asked


def _read(message: object) -> tuple[str, str, bool]:
    match message:
        case str():
            return "user", message, False
        case (str(role), str(text)):
            return role, text, False
        case Mapping():
            inner = message.get("data")  # LangChain's own dumps
            return role_of(message), *message_text(inner if isinstance(inner, Mapping) else message)
    framework = _framework(message)
    if framework is None:
        raise TypeError(
            "estimate() takes a text, messages of LangChain or LlamaIndex, (role, text) pairs, or mappings with a role "
            f"and content, not {type(message).__name__}"
        )
    ((role, text),), media = framework(message)
    return role, text, media


def _framework(message: object) -> Callable[[object], tuple[Pairs, bool]] | None:
    """Return what reads a framework's message."""
    modules = {kind.__module__.partition(".")[0] for kind in type(message).__mro__}
    if "langchain_core" in modules and hasattr(message, "content"):
        from token_handlers.langchain import text as langchain_text

        return lambda one: langchain_text.message_pairs([one])
    if "llama_index" in modules and hasattr(message, "blocks"):
        from token_handlers.llama_index import text as llama_index_text

        return lambda one: llama_index_text.message_pairs([one])
    return None


def _schema(tool: object) -> Mapping[str, object]:
    """Return a tool's schema: itself, or as its framework would send it."""
    if isinstance(tool, Mapping):
        return tool
    to_openai = getattr(getattr(tool, "metadata", None), "to_openai_tool", None)  # LlamaIndex's
    if callable(to_openai):
        schema: Mapping[str, object] = to_openai()
        return schema
    try:
        from langchain_core.utils.function_calling import convert_to_openai_tool

        return convert_to_openai_tool(tool)  # type: ignore[arg-type] # it says what it takes
    except (ImportError, ValueError, TypeError, AttributeError):
        raise TypeError(f"a tool is a schema or a tool of LangChain or LlamaIndex, not {type(tool).__name__}") from None
