import subprocess
import sys
from pathlib import Path

from tests.support.command_line import CALL
from tests.support.redis_servers import Valkey
from token_handlers.sinks.redis import RedisCounter

ROOT = Path(__file__).parents[2]
PROGRAM = f"""
import token_handlers.auto
from token_handlers import install
{CALL}
install()
ask()
"""


def run(program, *arguments, **environ):
    """Run a program of its own process."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        env={"PYTHONPATH": str(ROOT), "AGENTSIGHT_TOKEN_HANDLER_TYPE": "auto", **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_environments_fleet(ledger):
    """AGENTSIGHT_TOKEN_REDIS_URL adds each process's calls to that server, once, under the default namespace."""
    with Valkey() as valkey:
        for _ in range(2):
            done = run(PROGRAM, ledger.url(), AGENTSIGHT_TOKEN_REDIS_URL=valkey.url)
            assert (0, "") == (done.returncode, done.stderr)
        fleet = RedisCounter(valkey.url)
        total = fleet.totals()
        fleet.close()

    assert (2, ledger.total().prompt_tokens) == (total.successful_requests, total.prompt_tokens)


def test_a_url_that_is_none():
    """A URL that no server can have is an error that names the remedy, and shows no password."""
    done = run("import token_handlers.auto", AGENTSIGHT_TOKEN_REDIS_URL="http://:sesame@localhost")

    assert 1 == done.returncode
    assert "redis://" in done.stderr.splitlines()[-1]
    assert "sesame" not in done.stderr
