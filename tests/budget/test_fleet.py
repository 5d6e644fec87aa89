import contextlib
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import redis
from langchain_openai import ChatOpenAI

from tests.support.llama_index_clients import MESSAGES, Local, drain, make_llm, run
from tests.support.redis_servers import (
    SECRET,
    LosingReplies,
    Valkey,
    black_hole,
    call,
    free_port,
    http_server,
    listening,
)
from token_handlers import Budget, BudgetExceeded, install, track_tokens, uninstall
from token_handlers.budget import Amounts
from token_handlers.budget import local_store as budget_accounts
from token_handlers.sinks.redis.counter import RedisCounter, StoreRefused, StoreUnavailable


@pytest.fixture
def store(valkey, namespace):
    """A counter in the test's namespace, as a store of budgets."""
    own = RedisCounter(valkey.url, namespace, timeout=5)
    yield own
    own.close()


def team(store, on_outage="fail_closed", **terms):
    """Return a budget of the team."""
    return Budget(store=store, scope="team", on_outage=on_outage, **terms)


def make_chat(ledger, modes=None, **settings):
    """Return LangChain's client on the test's channel."""
    settings = {"max_retries": 0, "api_key": "none", **settings}
    return ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(**(modes or {})), **settings)


def books(budget, store):
    """Return the requests that are booked and held, once what waits has arrived."""
    assert store.flush(10)
    return budget.spent().requests, budget.held().requests


def wait_until(condition):
    """Ask again until it is so."""
    while not condition():
        pass


def was_sent(action):
    """Do something, and return whether the budget let it."""
    try:
        action()
    except BudgetExceeded:
        return False
    return True


def test_two_budgets_of_one_scope(ledger, store):
    """Budgets of one scope are one budget, with what the other has spent; those of other scopes are not."""
    one, other = team(store, max_requests=2), team(store, max_requests=3)
    apart = Budget(store=store, scope="apart", on_outage="fail_closed", max_requests=1)
    chat = make_chat(ledger)
    with track_tokens(budget=one):
        chat.invoke("Hi")
        chat.invoke("Hi")
        with pytest.raises(BudgetExceeded, match="budget 'team' has max_requests=2: 2 spent"):
            chat.invoke("Hi")
    with track_tokens(budget=other), track_tokens(budget=apart):
        chat.invoke("Hi")
        with pytest.raises(BudgetExceeded, match="budget 'team' has max_requests=3: 3 spent"):
            chat.invoke("Hi")

    assert 3 == len(ledger.entries())
    assert (3, 0) == books(one, store) == books(other, store)
    assert (1, 0) == books(apart, store)


def test_what_a_call_used_is_booked(ledger, store):
    """Cost, tokens and requests are what was billed."""
    budget = team(store, max_cost="1.00", max_tokens=10_000)
    with track_tokens(budget=budget) as counter:
        make_chat(ledger).invoke("Hi")
        make_llm(ledger).chat(MESSAGES)
        list(make_llm(ledger).stream_chat(MESSAGES, stream_options={"include_usage": True}))

    assert store.flush(10)
    assert Amounts(counter.cost, counter.total_tokens, 3) == budget.spent()
    assert Amounts() == budget.held()


def test_calls_in_a_row(ledger, store):
    """What a call held is free for the next one, though it is booked behind its back: a refusal waits for that."""
    budget = team(store, max_tokens=1000)
    with track_tokens(budget=budget, sinks=[store]) as counter:
        for _ in range(20):
            make_llm(ledger, max_tokens=350).chat(MESSAGES)

    assert 20 == len(ledger.entries())
    assert (20, 0) == books(budget, store)
    assert counter.total_tokens == budget.spent().tokens


WAYS = {
    "chat": lambda llm: llm.chat(MESSAGES),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "astream_chat": lambda llm: run(drain(llm.astream_chat(MESSAGES))),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_by_way_of_another_is_held_once(store, way):
    """An LLM whose chat is its own complete holds what one call holds, in a fleet's store as well."""
    llm, budget = Local(), team(store, max_requests=2)
    with track_tokens(budget=budget):
        WAYS[way](llm)
        WAYS[way](llm)
        with pytest.raises(BudgetExceeded):
            WAYS[way](llm)

    assert 2 == llm.requests
    assert (2, 0) == books(budget, store)


def test_sixteen_threads_at_once(ledger, store):
    """Of sixteen calls at the same time those are sent that fit in together."""
    budget, refused = team(store, max_requests=5), threading.Semaphore(0)
    chat = make_chat(ledger, {"hold": 1})

    def invoke():
        sent = was_sent(lambda: chat.invoke("Hi"))
        if not sent:
            refused.release()
        return sent

    with track_tokens(budget=budget), ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(copy_context().run, invoke) for _ in range(16)]
        ledger.wait_at_gate(5)
        for _ in range(11):
            assert refused.acquire(timeout=10)
        assert 5 == budget.held().requests
        ledger.release()
        sent = sum(call.result() for call in calls)

    assert 5 == sent == len(ledger.entries())
    assert (5, 0) == books(budget, store)


PROGRAM = """
    import os
    import sys

    from langchain_openai import ChatOpenAI

    from token_handlers import Budget, BudgetExceeded, track_tokens
    from token_handlers.sinks.redis import RedisCounter

    url, namespace, base_url = sys.argv[1:]
    chat = ChatOpenAI(model="gpt-4o-mini", base_url=base_url, api_key="none", max_retries=0, max_tokens=20)
    store = RedisCounter(url, namespace, timeout=5)
"""
HAMMER = """
    budget = Budget(store=store, scope="team", on_outage="fail_closed", max_tokens=900)
    with track_tokens(budget=budget) as counter:
        chat.invoke("What is the weather?")
        store.flush()
        for _ in range(3):  # four processes; importing is what takes time, and they are forked after it
            if not os.fork():
                counter.reset()
                break
        try:
            while True:
                chat.invoke("What is the weather?")
        except BudgetExceeded:
            os.write(1, b"%d " % counter.successful_requests)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
"""
HANG = """
    budget = Budget(store=store, scope="team", on_outage="fail_closed", max_requests=1, hold_seconds=3600)
    with track_tokens(budget=budget):
        chat.invoke("What is the weather?")
"""


@contextlib.contextmanager
def running(program, *arguments):
    """Run a program in a process of its own, which is killed where it has not ended."""
    text = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    with subprocess.Popen([sys.executable, "-c", text, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_four_processes_never_overspend(valkey, namespace, store, ledger):
    """Four processes that hammer one budget through LangChain stay within it, use it up, and book all when they end."""
    with running(HAMMER, valkey.url, namespace, ledger.url()) as process:
        sent = [int(number) for number in process.stdout.read().split()]
        assert 0 == process.wait()
    budget, bill = team(store, max_tokens=900), ledger.total()

    assert 4 == len(sent)
    assert sum(sent) == bill.requests == len(ledger.entries())
    assert Amounts(budget.spent().cost, bill.prompt_tokens + bill.completion_tokens, bill.requests) == budget.spent()
    assert 900 - 4 * 40 < budget.spent().tokens <= 900
    assert Amounts() == budget.held()


def test_a_killed_process(valkey, namespace, store, ledger):
    """What a process holds that is killed in the middle of a call is free again after hold_seconds."""
    budget, chat = team(store, max_requests=1), make_chat(ledger)
    with redis.Redis(port=valkey.port) as client, track_tokens(budget=budget):
        with running(HANG, valkey.url, namespace, ledger.url(hold=1)):
            ledger.wait_at_gate(timeout=60)
        with pytest.raises(BudgetExceeded, match="0 spent, 1 held by calls under way"):
            chat.invoke("Hi")
        ((reservation, expiry),) = client.zrange(expiries := f"{{{namespace}}}:expiries:team", 0, -1, withscores=True)
        assert 3600 - 60 < expiry / 1000 - client.time()[0] < 3600 + 1
        client.zadd(expiries, {reservation: client.time()[0] * 1000})  # an hour passes
        chat.invoke("Hi")

    assert (1, 0) == books(budget, store)


def test_a_call_that_outlives_its_hold(ledger, store):
    """It is booked all the same, once."""
    budget = team(store, max_requests=5, hold_seconds=0.05)
    with track_tokens(budget=budget), ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(copy_context().run, make_chat(ledger, {"hold": 1}).invoke, "Hi")
        ledger.wait_at_gate()
        wait_until(lambda: not budget.held().requests)
        ledger.release()
        under_way.result()

    assert (1, 0) == books(budget, store)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_wrong_hold_seconds(store, seconds):
    """They are more than 0, and for budgets with a store."""
    with pytest.raises(ValueError, match="hold_seconds must be seconds, more than 0"):
        team(store, max_requests=1, hold_seconds=seconds)
    with pytest.raises(ValueError, match="hold_seconds is for a budget with a store"):
        Budget(max_requests=1, hold_seconds=1.0)


@pytest.mark.parametrize("each", ["user", "session"])
def test_accounts_of_their_own(ledger, store, each):
    """A budget for each user or session has an account for each, apart from that of all, and from one another."""
    budget, whole = team(store, max_requests=1, each=each), team(store, max_requests=4)
    chat = make_chat(ledger)
    with track_tokens(budget=whole):
        for name in ("ann", "bob"):
            with track_tokens(budget=budget, **{each: name}):
                chat.invoke("Hi")
                with pytest.raises(BudgetExceeded, match=f"budget 'team' of {each} '{name}' has max_requests=1"):
                    chat.invoke("Hi")
        with track_tokens(budget=budget):
            chat.invoke("Hi")

    assert (3, 0) == books(whole, store)
    assert [1, 1, 1] == [budget.spent(name).requests for name in ("ann", "bob", None)]
    assert 0 == budget.spent("cyd").requests


def test_users_and_sessions_of_one_name(ledger, store):
    """A user and a session of one name have accounts of their own."""
    users, sessions = (team(store, max_requests=1, each=each) for each in ("user", "session"))
    with track_tokens(user="x", session="x", budget=users), track_tokens(budget=sessions):
        make_chat(ledger).invoke("Hi")

    assert store.flush(10)
    assert (1, 1) == (users.spent("x").requests, sessions.spent("x").requests)


@pytest.mark.parametrize("window", ["hour", "day", "month"])
def test_windows(ledger, valkey, store, namespace, monkeypatch, window):
    """A window is the server's: a process whose clock is wrong is in the same one, and the next one starts anew."""
    budget, chat = team(store, max_requests=1, per=window), make_chat(ledger)
    with track_tokens(budget=budget):
        chat.invoke("Hi")
        monkeypatch.setattr(budget_accounts, "now", lambda: datetime(2090, 1, 1, tzinfo=UTC))
        with pytest.raises(BudgetExceeded, match=f"budget 'team' per {window} has max_requests=1: 1 spent"):
            chat.invoke("Hi")
        with redis.Redis(port=valkey.port) as client:
            client.hset(f"{{{namespace}}}:budget:team", window, 1)  # the server's last window was long ago
        assert Amounts() == budget.spent()
        chat.invoke("Hi")

    assert (1, 0) == books(budget, store)
    assert 2 == store.spent("team").spent.requests


def test_warnings(ledger, store):
    """on_warning is called when the store says that enough is spent: by the next call, of whichever process."""
    warnings = []
    budget = team(store, max_requests=5, warn_at=0.4, on_warning=warnings.append)
    store.settle("team", "of another process", cost=Decimal(0), tokens=0, requests=2)
    with track_tokens(budget=budget):
        make_chat(ledger).invoke("Hi")
        make_chat(ledger).invoke("Hi")

    assert [("budget 'team'", "max_requests", 5, 2)] == warnings


def test_the_whole_process(ledger, store):
    """install() takes such a budget, too."""
    budget = team(store, max_requests=1)
    install("langchain,llamaindex", budget=budget)
    make_chat(ledger).invoke("Hi")
    with pytest.raises(BudgetExceeded):
        make_llm(ledger).chat(MESSAGES)
    uninstall()

    assert 1 == len(ledger.entries())
    assert (1, 0) == books(budget, store)


def test_a_server_that_comes_later(ledger):
    """fail_open: calls are sent while the server is down, and booked once when it is up; then limits hold again."""
    valkey = Valkey()
    store = RedisCounter(valkey.url)
    budget, chat = team(store, "fail_open", max_requests=4), make_chat(ledger)
    with track_tokens(budget=budget):
        for _ in range(5):
            chat.invoke("Hi")
        with valkey:
            assert (5, 0) == books(budget, store)
            with pytest.raises(BudgetExceeded, match="max_requests=4: 5 spent"):
                chat.invoke("Hi")
            store.close()

    assert 5 == len(ledger.entries())


def test_a_server_that_goes(ledger, caplog):
    """fail_closed: while the server is down no call is sent; BudgetExceeded names the cause, and no limit."""
    with Valkey() as valkey:
        store = RedisCounter(valkey.url)
        budget, chat = team(store, max_requests=10), make_chat(ledger)
        with track_tokens(budget=budget):
            chat.invoke("Hi")
            assert store.flush(10)
            valkey.kill()
            for _ in range(3):
                with pytest.raises(BudgetExceeded, match="gpt-4o-mini was not called: budget 'team' fails") as caught:
                    chat.invoke("Hi")
                assert f"fails closed: The Redis server at 127.0.0.1:{valkey.port} " in str(caught.value)
                assert (None, None, None) == (caught.value.limit, caught.value.maximum, caught.value.spent)
            valkey.start()
            wait_until(lambda: was_sent(lambda: chat.invoke("Hi")))

        assert 2 == len(ledger.entries())
        assert (1, 0) == books(budget, store)  # of the server that has come up, empty
        store.close()
    assert 1 == caplog.text.count("records wait until it can")


def test_a_server_that_goes_while_calls_are_under_way(ledger, tmp_path):
    """Their settlements wait, and are booked once."""
    with Valkey(tmp_path, appendonly="yes", appendfsync="always") as valkey:
        store = RedisCounter(valkey.url)
        budget, chat = team(store, max_requests=10), make_chat(ledger, {"hold": 1})
        with track_tokens(budget=budget), ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(copy_context().run, chat.invoke, "Hi") for _ in range(3)]
            ledger.wait_at_gate(3)
            valkey.kill()
            ledger.release()
            for under_way in calls:
                under_way.result()
        valkey.start()

        assert (3, 0) == books(budget, store)
        store.close()


@pytest.mark.parametrize("on_outage", ["fail_open", "fail_closed"])
def test_kill_and_restart(ledger, tmp_path, on_outage):
    """Through kill -9 and restarts, with the data that was on disk, every call that was sent is booked once."""
    with Valkey(tmp_path, appendonly="yes", appendfsync="always") as valkey:
        store = RedisCounter(valkey.url)
        budget, chat, done = team(store, on_outage, max_requests=100_000), make_chat(ledger), threading.Event()

        def work():
            sent = 0
            while not done.is_set():
                sent += was_sent(lambda: chat.invoke("Hi"))
            return sent

        with track_tokens(budget=budget), ThreadPoolExecutor(3) as pool:
            workers = [pool.submit(copy_context().run, work) for _ in range(3)]
            for sent in (5, 10, 15):
                ledger.wait_for(sent, timeout=60)
                valkey.kill()
                valkey.start()
            ledger.wait_for(20, timeout=60)
            done.set()
            total = sum(worker.result() for worker in workers)

        assert total == len(ledger.entries()) >= 20
        assert (total, 0) == books(budget, store)
        store.close()


def test_lost_replies(ledger, valkey, namespace):
    """A reservation whose answer was lost holds nothing in the end; a settlement that is sent again is booked once."""
    proxy = LosingReplies(valkey.port)
    with listening(proxy) as port:
        store = RedisCounter(f"redis://127.0.0.1:{port}", namespace)
        budget, chat = team(store, "fail_open", max_requests=100), make_chat(ledger)
        with track_tokens(budget=budget):
            for _ in range(10):
                proxy.losing = 2
                chat.invoke("Hi")

        assert (10, 0) == books(budget, store)
        store.close()


@pytest.mark.parametrize("on_outage", ["fail_open", "fail_closed"])
def test_a_black_hole(ledger, monkeypatch, on_outage):
    """A server that accepts connections and answers nothing is waited for once; then no call waits for it at all."""
    waited = []
    with listening(black_hole) as port:
        store = RedisCounter(f"redis://127.0.0.1:{port}", timeout=0.2)
        script = store._server.script

        def watched(*args):
            waited.append(threading.current_thread())
            return script(*args)

        monkeypatch.setattr(store._server, "script", watched)
        budget, chat = team(store, on_outage, max_requests=100), make_chat(ledger)
        with track_tokens(budget=budget):
            sent = [was_sent(lambda: chat.invoke("Hi")) for _ in range(20)]
        store.close(0)

    assert 1 == waited.count(threading.current_thread())
    assert [on_outage == "fail_open"] * 20 == sent
    assert sum(sent) == len(ledger.entries())


def everything_said(budget, store, caplog, error):
    """All that a log or a report could show."""
    causes = []
    while error is not None:
        causes += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join([*causes, repr(budget), repr(store), caplog.text])


@pytest.mark.parametrize("credentials", [f":not-{SECRET}", f"nobody:{SECRET}"])
def test_a_wrong_password(ledger, caplog, credentials):
    """The refusal says that the password is wrong, not only the first time, and nothing shows it."""
    with Valkey() as locked:
        with redis.Redis(port=locked.port) as client:
            client.config_set("requirepass", "the right one")
        store = RedisCounter(f"redis://{credentials}@127.0.0.1:{locked.port}")
        budget = team(store, max_requests=1)
        for _ in range(2):
            with track_tokens(budget=budget), pytest.raises(BudgetExceeded) as caught:
                make_chat(ledger).invoke("Hi")
            assert "refused the user name or the password: look at the URL" in str(caught.value)
            assert SECRET not in everything_said(budget, store, caplog, caught.value)
        with pytest.raises(StoreUnavailable, match="refused the user name or the password"):
            budget.spent()
        store.close(0)

    assert [] == ledger.entries()


def test_a_server_that_is_not_redis(ledger, caplog):
    """A web server at the address is a clear error, or with fail_open a clear warning, once."""
    with http_server() as port:
        store = RedisCounter(f"redis://:{SECRET}@127.0.0.1:{port}")
        closed, opened = team(store, max_requests=1), team(store, "fail_open", max_requests=1)
        with track_tokens(budget=closed), pytest.raises(BudgetExceeded, match="look at the URL") as caught:
            make_chat(ledger).invoke("Hi")
        with track_tokens(budget=opened):
            make_chat(ledger).invoke("Hi")
        store.close(0)

    assert f"What answers at 127.0.0.1:{port} " in str(caught.value)
    assert 1 == caplog.text.count("records wait until it can")
    assert 1 == len(ledger.entries())
    assert SECRET not in everything_said(closed, store, caplog, caught.value)


def test_a_refusal_is_an_answer(ledger, store):
    """A server that came back and refuses what waited for it can be used: the budget does not stay closed."""

    def refuse():
        raise StoreRefused("WRONGTYPE")

    budget, chat = team(store, max_requests=1), make_chat(ledger)
    with track_tokens(budget=budget):
        store._writer.went_down(StoreUnavailable("It is gone"))
        with pytest.raises(BudgetExceeded, match="fails closed: It is gone"):
            chat.invoke("Hi")
        store._writer.put(refuse)
        assert store.flush(10)
        chat.invoke("Hi")

    assert (1, 1) == (len(ledger.entries()), store.dropped)


def test_a_store_must_say_how_it_fails(store):
    """There is no default of what happens in an outage, nor of the scope."""
    for terms in ({"scope": "team"}, {"on_outage": "fail_open"}):
        with pytest.raises(ValueError, match="needs a scope"):
            Budget(max_requests=1, store=store, **terms)


def test_records_and_budgets_in_one_store(ledger, store):
    """One RedisCounter may be the sink of the records and the store of the budget."""
    budget = team(store, max_requests=2)
    with track_tokens(budget=budget, sinks=[store], user="ann"):
        make_chat(ledger).invoke("Hi")
    store(call())

    assert (1, 0) == books(budget, store)
    assert (2, 1) == (store.totals().successful_requests, store.totals(user="ann").successful_requests)
    assert 0 == store.waiting


def test_a_port_that_nobody_listens_on(ledger):
    """An address with nothing behind it is an outage like any other."""
    port = free_port()
    store = RedisCounter(f"redis://127.0.0.1:{port}")
    with track_tokens(budget=team(store, max_requests=1)), pytest.raises(BudgetExceeded, match=f"127.0.0.1:{port}"):
        make_chat(ledger).invoke("Hi")
    store.close(0)

    assert [] == ledger.entries()
