"""What doctor looks at; it reads versions and variables, and imports no framework."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from token_handlers import http
from token_handlers.cli import trials
from token_handlers.cli.options import quiet_log, shown, use_newest_prices
from token_handlers.errors import TokenHandlersError
from token_handlers.install import parse_handler_type
from token_handlers.settings import FRAMEWORKS, Settings

PACKAGES = (
    "token-handlers", "genai-prices", "langchain-core", "langchain", "langchain-openai", "langchain-anthropic",
    "llama-index-core", "llama-index-instrumentation", "llama-index-llms-openai", "openai", "tiktoken", "redis",
    "opentelemetry-api", "rich", "agentsight",
)  # fmt: skip
_DISTRIBUTIONS = {"langchain": "langchain-core", "llamaindex": "llama-index-core"}
_OLDEST = {"langchain-core": (0, 3), "llama-index-core": (0, 12, 45)}
_PLAIN = ("AGENTSIGHT_TOKEN_HANDLER_TYPE", "AGENTSIGHT_TOKEN_LEDGER", "AGENTSIGHT_CONVERSATION_ID",
          "AGENTSIGHT_TOKEN_LABELS", "OTEL_SEMCONV_STABILITY_OPT_IN")  # fmt: skip
_ALSO = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_API_KEY", *_PLAIN)

_BY_GRPC = ("google-cloud-aiplatform", "google-ai-generativelanguage", "langchain-google-vertexai",
            "llama-index-llms-vertex", "xai-sdk")  # fmt: skip
_LOCAL = ("ctransformers", "fastembed", "gpt4all", "llama-cpp-python", "mlx-lm", "sentence-transformers",
          "transformers", "vllm")  # fmt: skip

FLEET_SECONDS = 2.0
"""How long doctor waits for a fleet's server."""


class Finding(NamedTuple):
    """Something to know; a problem makes the exit status 1."""

    problem: bool
    text: str


def versions() -> dict[str, str | None]:
    """Return the version of what matters, None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, str]:
    """Return the variables that are set and matter; of those that may hold a secret only that they are set."""
    names = sorted(name for name in os.environ if name.startswith("AGENTSIGHT_") or name in _ALSO)
    return {
        name: os.environ[name] if name in _PLAIN else f"(set, {len(os.environ[name])} characters)" for name in names
    }


def on_frameworks(found: dict[str, str | None]) -> Iterator[Finding]:
    """Yield what is to be said of LangChain, LlamaIndex and other trackers."""
    if not any(found[name] for name in _DISTRIBUTIONS.values()):
        yield Finding(True, "neither LangChain nor LlamaIndex is installed: pip install 'token-handlers[langchain]'")
    for name, oldest in _OLDEST.items():
        version = found[name]
        if version is not None and _numbers(version) < oldest:
            floor = ".".join(map(str, oldest))
            yield Finding(True, f"{name} {version} is too old: pip install '{name}>={floor}'")
    agentsight = found["agentsight"]
    if agentsight is not None and _numbers(agentsight) >= (0, 1):
        yield Finding(
            False,
            f"agentsight {agentsight} tracks LangChain and LlamaIndex itself: what both send counts twice",
        )
    elif agentsight is not None:
        yield Finding(False, f"agentsight {agentsight} is installed; its own automatic handlers never attach")


def on_trials(found: dict[str, str | None]) -> Iterator[Finding]:
    """Yield whether a call of each framework's mock model is counted, which imports it."""
    installed = [name for name in trials.CALLS if found[name] is not None]
    for name in shown(installed, "frameworks tried"):
        try:
            with quiet_log():
                counted = trials.is_counted(trials.CALLS[name])
        except ImportError as error:
            yield Finding(True, f"{name} can't be imported: {error}: install it again")
            continue
        if counted:
            yield Finding(False, f"a trial call of {name} {found[name]} was counted")
        else:
            yield Finding(True, f"a trial call of {name} {found[name]} was not counted: upgrade token-handlers, or it")


def on_answers() -> Iterator[Finding]:
    """Yield under which clients the providers' own answers are seen, of those that are imported here."""
    if not Settings().watches_http:
        yield Finding(False, "TOKEN_HANDLERS_HTTP=off: the frameworks' events alone are counted, and no SDK's calls")
        return
    methods = ", ".join(http.tapped())
    if methods:
        yield Finding(False, f"the providers' own answers are seen under {methods}")
    else:
        yield Finding(False, "the providers' own answers are seen under httpx, requests, aiohttp and botocore")


def on_unseen() -> Iterator[Finding]:
    """Yield which installed packages ask models where no provider's answer is seen."""
    frameworks = "LangChain's and LlamaIndex's calls of them count by their events, calls of their own do not"
    for names, way in ((_BY_GRPC, "ask models by gRPC"), (_LOCAL, "run models in the process, for no fee")):
        installed = ", ".join(f"{name} {version}" for name in names if (version := _version(name)) is not None)
        if installed:
            yield Finding(False, f"{installed} may {way}, where no answer is seen: {frameworks}")


def on_tracking(found: dict[str, str | None]) -> Iterator[Finding]:
    """Yield what automatic tracking attaches to."""
    handler_type = (Settings().token_handler_type or "").strip()
    if not handler_type:
        yield Finding(False, "AGENTSIGHT_TOKEN_HANDLER_TYPE is not set: only blocks, handlers and `run` track calls")
        return
    try:
        wanted = parse_handler_type(handler_type)
    except ValueError as error:
        yield Finding(True, str(error))
        return
    for name in sorted(wanted):
        distribution = _DISTRIBUTIONS[name]
        if found[distribution] is not None:
            yield Finding(False, f"{name} calls are tracked in each process that imports token_handlers.auto")
        elif handler_type.lower() != "auto":
            extra = FRAMEWORKS[name][1]
            yield Finding(True, f"{distribution} is not installed: pip install 'token-handlers[{extra}]'")


def on_prices() -> Iterator[Finding]:
    """Yield how old the price table is, by its newest rate."""
    from token_handlers.pricing.freshness import current_table

    today = datetime.now(UTC).date()
    try:
        if Settings().price_updates is not None:
            use_newest_prices()
    except ValueError as error:
        yield Finding(True, str(error))
        return
    yield Finding(False, current_table(today).says(today))


def ledger_name(name: str | None) -> str:
    """Return the ledger's path as --ledger or the environment gives it, or nothing."""
    return name or (Settings().token_ledger or "").strip()


def on_ledger(name: str) -> Iterator[Finding]:
    """Yield where records go; a ledger that is not there yet is not made."""
    if not name:
        yield Finding(False, "no ledger: AGENTSIGHT_TOKEN_LEDGER is not set, so counts last as long as the process")
        return
    if "://" in name:
        yield _on_existing(name)
        return
    path = Path(name).expanduser().absolute()
    if os.path.exists(path):  # noqa: PTH110 (Path's own raises where a folder may not be looked into)
        yield _on_existing(str(path))
        return
    folder = next(parent for parent in path.parents if os.path.exists(parent))  # noqa: PTH110 (as above)
    if folder.is_dir() and os.access(folder, os.W_OK):
        yield Finding(False, f"the ledger {path} will be made by the first program that writes to it")
    else:
        yield Finding(True, f"the ledger {path} can't be made: {folder} is not a folder that can be written to")


def _on_existing(name: str) -> Finding:
    from token_handlers.sinks.configured import ledger_at

    try:
        with ledger_at(name) as ledger:
            total = ledger.totals()
    except (TokenHandlersError, ValueError) as error:
        return Finding(True, str(error))
    return Finding(False, f"the ledger {ledger.place} can be written, and has {total.successful_requests:,} requests")


def on_fleet() -> Iterator[Finding]:
    """Yield whether the server that AGENTSIGHT_TOKEN_REDIS_URL names answers; a password is never shown."""
    secret = Settings().token_redis_url
    url = secret.get_secret_value().strip() if secret is not None else ""
    if not url:
        return
    from token_handlers.sinks.redis.counter import RedisCounter

    try:
        fleet = RedisCounter(url, timeout=FLEET_SECONDS)
        fleet.ping()
    except (TokenHandlersError, ValueError) as error:
        yield Finding(True, f"AGENTSIGHT_TOKEN_REDIS_URL: {error}")
        return
    yield Finding(False, f"{fleet!r} answers: each tracked process adds its calls to it")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
