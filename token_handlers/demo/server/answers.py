"""What the loopback server is asked, how it counts the tokens of it, and what it answers."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from token_handlers.demo.server.modes import Modes
from token_handlers.demo.server.schemas import Schema, example, schemas_in

Json = Mapping[str, Any]

SENTENCE = ("this", "answer", "is", "made", "of", "plain", "words", "so", "that", "counting", "is", "easy")
PER_MESSAGE = PER_PROMPT = 3
PER_PICTURE = 85
PIECE = re.compile(r"\s*(?:\w+|[^\w\s])|\s+$")
REACT_TOOL = re.compile(r"^> Tool Name: (\S+)$.*?^Tool Args: (\{[^\n]*\})$", re.MULTILINE | re.DOTALL)
REACT_ACTION = "Thought: I need a tool to answer.\nAction: {}\nAction Input: {}"
REACT_ANSWER = "Thought: I can answer without using any more tools.\nAnswer: "


class Message(NamedTuple):
    """One message of a prompt: who says it, its text, and what its pictures and sounds count."""

    role: str
    text: str
    extra: int = 0


class Tool(NamedTuple):
    """A function that the answer may call."""

    name: str
    parameters: Schema


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of any endpoint in one vocabulary."""

    model: str
    prompt_tokens: int
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    """``auto``, ``none``, ``required``, or the name of the tool that must be called."""
    schema: Schema | None = None
    """The schema that the answer must match; {} is any JSON object, None is text."""
    limit: int | None = None
    choices: int = 1
    billed_choices: int = 1
    stream: bool = False
    include_usage: bool = False
    tier: str = ""
    body: Json = field(default_factory=dict)


class Answer(NamedTuple):
    """One choice: text, or a call of a tool whose arguments the pieces are."""

    pieces: tuple[str, ...]
    tool: str | None = None
    cut: bool = False

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.pieces)

    def value(self) -> object:
        """The JSON that the pieces spell."""
        return json.loads(self.text)

    @property
    def tokens(self) -> int:
        """A token for each piece, and those of the tool's name."""
        return len(self.pieces) + count(self.tool or "")

    def end(self, called: str, cut: str, done: str) -> str:
        """Which of an API's three words says why the answer ended."""
        return called if self.tool is not None else cut if self.cut else done


def split(text: str) -> tuple[str, ...]:
    """The text's tokens, blanks kept in front: a word, a punctuation mark, or blanks at the end."""
    return tuple(PIECE.findall(text))


def count(text: str) -> int:
    """How many tokens a text has."""
    return len(PIECE.findall(text))


def count_json(value: object) -> int:
    """How many tokens a value's compact JSON has, as for tools and schemas in a prompt."""
    return count(json.dumps(value, separators=(",", ":"))) if value else 0


def count_prompt(messages: Iterable[Message], *settings: object) -> int:
    """A prompt's tokens: its messages' texts, 3 for each message, 3 for the prompt, and its settings as JSON."""
    said = sum(PER_MESSAGE + count(message.text) + message.extra for message in messages)
    return PER_PROMPT + said + sum(count_json(setting) for setting in settings)


def message(role: str, content: str | Sequence[Json] | None, *calls: str) -> Message:
    """A message whose content is text or parts; a picture or a sound counts 85, the calls' texts are added."""
    parts: Sequence[Json] = [{"text": content}] if isinstance(content, str) else content or ()
    texts = [str(part["text"]) for part in parts if "text" in part]
    return Message(role, " ".join([*texts, *calls]), PER_PICTURE * (len(parts) - len(texts)))


def compose(ask: Ask, modes: Modes) -> Answer:
    """What the server answers: a tool call where one is due, else JSON where it is wanted, else plain words."""
    if (tool := _due_tool(ask, modes.rounds)) is not None:
        return Answer(split(json.dumps(example(tool.parameters))), tool.name)
    if (schema := _wanted_schema(ask)) is not None:
        return Answer(split(json.dumps(example(schema) if schema else {"answer": " ".join(SENTENCE)})))
    pieces = split(_react(ask, modes) if _is_react(ask) else words(modes.words))
    return Answer(pieces[: ask.limit], None, ask.limit is not None and ask.limit < len(pieces))


@lru_cache(maxsize=64)
def words(number: int) -> str:
    """A text of that many plain words."""
    return " ".join(SENTENCE[index % len(SENTENCE)] for index in range(number))


def _due_tool(ask: Ask, rounds: int) -> Tool | None:
    """A named tool always; a required one in turn, then the last, as agents end with it; else one while rounds last."""
    if not ask.tools or ask.choice == "none":
        return None
    done = _since_question(ask.messages, "tool")
    if ask.choice == "required":
        return ask.tools[min(done, len(ask.tools) - 1)]
    if ask.choice == "auto":
        return ask.tools[done % len(ask.tools)] if done < rounds else None
    return {tool.name: tool for tool in ask.tools}[ask.choice]


def _since_question(messages: Sequence[Message], role: str) -> int:
    roles = [message.role for message in messages]
    last = max((index for index, one in enumerate(roles) if one == "user"), default=0)
    return roles[last:].count(role)


def _wanted_schema(ask: Ask) -> Schema | None:
    """The request's schema; or where it wants any JSON, or nothing, the last one that the prompt quotes."""
    if ask.schema or _is_react(ask):
        return ask.schema
    quoted = [schema for message in ask.messages for schema in schemas_in(message.text)]
    return quoted[-1] if quoted else ask.schema


def _is_react(ask: Ask) -> bool:
    return bool(ask.messages) and "Action Input:" in ask.messages[0].text


def _react(ask: Ask, modes: Modes) -> str:
    tools = REACT_TOOL.findall(ask.messages[0].text)
    done = sum(message.text.startswith("Observation:") for message in ask.messages)
    if not tools or done >= modes.rounds:
        return REACT_ANSWER + words(modes.words)
    name, schema = tools[done % len(tools)]
    return REACT_ACTION.format(name, json.dumps(example(json.loads(schema))))
