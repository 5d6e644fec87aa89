import asyncio
import concurrent.futures
from types import ModuleType

import pytest

from token_handlers import track_tokens
from token_handlers.llama_index import executors, wraps
from token_handlers.tracking.replacements import Replacements
from token_handlers.tracking.scopes import active_scopes

# What llama-index-core has in its modules function_tool, until 0.14.21, and async_utils, at 0.12.45.
TOOLS = """
import asyncio
def sync_to_async(fn):
    async def _async_wrapped_fn(*args, **kwargs):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: fn(*args, **kwargs))
    return _async_wrapped_fn
"""
UTILS = """
import asyncio
import concurrent.futures
def asyncio_run(coro):
    def run_coro_in_thread():
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(coro)
        finally:
            loop.close()
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(run_coro_in_thread).result()
"""
# What llama-index-workflows has in its module workflows.context.context, at 1.3 and 2.6.
STEPS = """
import asyncio
async def run_step(step):
    return await asyncio.get_event_loop().run_in_executor(None, step)
"""
# What llama-index-llms-bedrock-converse has, as far as it matters, where aioboto3 is not installed.
BEDROCK = """
import asyncio
async def converse_with_retry_async(*, client, model):
    return await asyncio.get_running_loop().run_in_executor(None, lambda: client.converse_stream(modelId=model))
"""
AWARE = "import contextvars\n"


@pytest.fixture
def _restored(monkeypatch):
    """What is put into modules is taken out again."""
    own = Replacements()
    monkeypatch.setattr(wraps, "_replaced", own)
    yield
    assert all(ours is vars(owner)[name] for owner, name, _, ours in own._entries)
    own.restore()


def module(source):
    """Return a module of this source."""
    made = ModuleType("made")
    exec(source, vars(made))
    return made


async def scopes_here():
    """Return how many blocks are active here."""
    return len(active_scopes())


@pytest.mark.usefixtures("_restored")
def test_sync_tools_keep_their_blocks():
    """Also tools that were made before anything was tracked; the module is watched once."""
    tools = module(TOOLS)
    tool = tools.sync_to_async(lambda: len(active_scopes()))
    executors.watch(tools)
    executors.watch(tools)
    with track_tokens():
        assert 1 == asyncio.run(tool())
    assert 0 == asyncio.run(tool())


@pytest.mark.usefixtures("_restored")
def test_sync_steps_of_workflows_keep_their_blocks():
    """So do steps that are no coroutines."""
    steps = module(STEPS)
    executors.watch(steps)
    with track_tokens():
        assert 1 == asyncio.run(steps.run_step(lambda: len(active_scopes())))


class Client:
    """A client that tells how many blocks are active where it sends."""

    exceptions = ("ThrottlingException",)

    def converse_stream(self, **asked):
        return len(active_scopes())


@pytest.mark.usefixtures("_restored")
def test_bedrocks_streams_keep_their_blocks(monkeypatch):
    """BedrockConverse's client sends in the context of the call that it streams for; all else of it is its own."""
    monkeypatch.setattr(wraps, "_attached", True)
    bedrock = module(BEDROCK)
    executors.watch_bedrock(bedrock)
    with track_tokens():
        assert 1 == asyncio.run(bedrock.converse_with_retry_async(client=Client(), model="m"))
    assert Client.exceptions == executors._ContextClient(Client()).exceptions


@pytest.mark.usefixtures("_restored")
def test_coroutines_in_a_thread_keep_their_blocks():
    """So it is where LlamaIndex runs a coroutine beside a running loop."""
    utils = module(UTILS)
    executors.watch(utils)
    with track_tokens():
        assert 1 == utils.asyncio_run(scopes_here())
    assert utils.asyncio.sleep is asyncio.sleep
    assert utils.concurrent.futures.Future is concurrent.futures.Future


def test_versions_that_carry_the_context_are_left_alone():
    """They know of contexts."""
    tools = module(AWARE + TOOLS)
    executors.watch(tools)

    assert tools.asyncio is asyncio
