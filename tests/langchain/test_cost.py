"""What counting costs a call: our Python functions on its way, counted exactly."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

import token_handlers
from token_handlers import Budget, shared_counter, track_tokens
from token_handlers.sinks.sqlite import SQLiteLedger

REPOSITORY = Path(__file__).parents[2]
ROOT = str(Path(token_handlers.__file__).parent)

RAW = {
    "completion_tokens": 12,
    "prompt_tokens": 3000,
    "total_tokens": 3012,
    "completion_tokens_details": {
        "accepted_prediction_tokens": 0,
        "audio_tokens": 0,
        "reasoning_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
}
USAGE = {
    "input_tokens": 3000,
    "output_tokens": 12,
    "total_tokens": 3012,
    "input_token_details": {"audio": 0, "cache_read": 0},
    "output_token_details": {"audio": 0, "reasoning": 0},
}
METADATA = {
    "token_usage": RAW,
    "model_provider": "openai",
    "model_name": "gpt-4o-mini-2024-07-18",
    "system_fingerprint": None,
    "id": "x",
    "service_tier": "default",
    "finish_reason": "stop",
    "logprobs": None,
}


class OpenAIShaped(BaseChatModel):
    """A model that answers what ChatOpenAI does."""

    @property
    def _llm_type(self):
        return "openai-chat"

    def _get_ls_params(self, stop=None, **kwargs):
        return {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini", "ls_model_type": "chat"}

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        message = AIMessage("hi", usage_metadata=USAGE, response_metadata=METADATA)
        output = {name: METADATA[name] for name in METADATA if name not in ("finish_reason", "logprobs")}
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=output)


MODEL = OpenAIShaped()


def calls_of(work):
    """Return the module of each call of a function of ours while something is done, in their order."""
    made = []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            made.append(str(Path(frame.f_code.co_filename).relative_to(ROOT)))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return made


def calls_of_an_invoke(**block):
    """Return the same for one invoke in a block that has made some."""
    with track_tokens(**block) as tokens:
        for _ in range(3):
            MODEL.invoke("hi")
        assert 3 == shared_counter().successful_requests == tokens.successful_requests
        return calls_of(lambda: MODEL.invoke("hi"))


def in_a_block_of_its_own(**block):
    """Open a block, make one call in it and read its total."""

    def request():
        with track_tokens(**block) as tokens:
            MODEL.invoke("hi")
        assert 3012 == tokens.total_tokens

    for _ in range(3):
        request()
    shared_counter().total_tokens  # noqa: B018 (adds up what calls have left to be added up)
    return calls_of(request)


def with_a_budget():
    """Do the same in a block with a budget."""
    return in_a_block_of_its_own(budget=Budget(max_cost=1_000))


def with_a_budget_and_a_ledger():
    """Make a call in an open block with both."""
    with tempfile.TemporaryDirectory() as folder, SQLiteLedger(Path(folder, "usage.db")) as ledger:
        return calls_of_an_invoke(budget=Budget(max_cost=1_000), sinks=[ledger])


def untracked():
    """Make a call that nobody counts."""
    MODEL.invoke("hi")
    return calls_of(lambda: MODEL.invoke("hi"))


def measured(work):
    """Return the calls that some work makes in a process of its own, where no other test has left anything."""
    program = f"import json; from tests.langchain import test_cost; print(json.dumps(test_cost.{work.__name__}()))"
    environment = {**os.environ, "LANGSMITH_TRACING": "false"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_call_in_a_block_of_its_own():
    """Opening a block, one call in it and reading its total make at most 35 calls of our functions."""
    assert len(measured(in_a_block_of_its_own)) <= 35


def test_a_call_in_an_open_block():
    """One more call in a block makes at most 25 calls of our functions."""
    assert len(measured(calls_of_an_invoke)) <= 25


def test_a_call_with_a_budget():
    """A block with a budget, one call in it that reserves and settles there, and its total make at most 55."""
    assert len(measured(with_a_budget)) <= 55


def test_a_call_without_a_block_or_handler():
    """Where nothing was ever tracked, a call makes no call of our functions."""
    assert [] == measured(untracked)


def test_the_way_of_a_call():
    """A plain call passes these modules, from its start to the counter."""
    assert PLAIN == list(dict.fromkeys(measured(calls_of_an_invoke)))


def test_the_way_of_a_call_with_everything():
    """A call with a budget and a ledger passes these modules besides; the ledger's own thread does the rest."""
    assert BESIDES == set(measured(with_a_budget_and_a_ledger)) - set(PLAIN)


PLAIN = [
    "langchain/handler.py",
    "tracking/call.py",
    "langchain/calls.py",
    "langchain/results.py",
    "payloads/plain/__init__.py",
    "tracking/recorder.py",
    "pricing/plans.py",
    "counter/counter.py",
]


BESIDES = {
    "budget/budget.py",
    "budget/limits.py",
    "budget/local_store.py",
    "lifecycle.py",
    "sinks/sql/ledger.py",
    "tracking/reservations.py",
}
