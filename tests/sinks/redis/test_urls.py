import logging
import traceback

import pytest
import redis
from pydantic import SecretStr

from tests.support.redis_servers import SECRET, Valkey, call, http_server, listening, quoting
from token_handlers.sinks.redis.counter import RedisCounter, StoreUnavailable


@pytest.fixture(scope="module")
def valkey():
    """A server with a password."""
    with Valkey() as running:
        with redis.Redis(port=running.port) as client:
            client.config_set("requirepass", SECRET)
        yield running


def everything_said(error):
    """All that a log or an error report could show of an error, its causes and contexts included."""
    said = [*traceback.format_exception(error)]
    while error is not None:
        said += [str(error), repr(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def why_not(url, caplog):
    """Use a counter in every way, and return the error of ping(); the secret is nowhere in what was said."""
    caplog.set_level(logging.DEBUG)
    counter = RedisCounter(url)
    counter(call())
    assert not counter.flush()
    with pytest.raises(StoreUnavailable) as caught:
        counter.ping()
    with pytest.raises(StoreUnavailable) as other:
        counter.reserve("team", reservation="a", limits={})
    said = [everything_said(caught.value), everything_said(other.value), repr(counter), caplog.text]
    counter.close(0)
    assert SECRET not in "\n".join([*said, caplog.text])
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        SECRET,
        f"{SECRET}@localhost",
        f"http://:{SECRET}@localhost:6379",
        f"redis:/:{SECRET}@localhost",
        f"redis://:{SECRET}@localhost:port",
        f"redis://:{SECRET}@localhost:99999",
        f"redis://:{SECRET}/x@localhost:6379",
        f"redis://:1/{SECRET}@localhost:6379",
        f"redis://:1#{SECRET}@localhost:6379",
        f"redis://:1?{SECRET}@localhost:6379",
        f"redis://:{SECRET}@[localhost:6379",
        f"redis://:{SECRET}@localhost:6379/database",
        f"redis://:{SECRET}@localhost:6379?no_such_option=1",
        f"redis://:{SECRET}@localhost:6379?db=x",
    ],
)
def test_a_wrong_url_is_refused(url):
    """A URL that is none is a ValueError at once that says what one looks like, and shows nothing of this one."""
    with pytest.raises(ValueError, match="redis://") as caught:
        RedisCounter(url)

    assert SECRET not in everything_said(caught.value)


def test_what_is_no_string_is_refused():
    """A URL is a string or a SecretStr."""
    with pytest.raises(TypeError, match="NoneType"):
        RedisCounter(None)


@pytest.mark.parametrize("wrap", [str, SecretStr])
def test_the_right_password(valkey, wrap):
    """A password may be in the URL, which may be a SecretStr; it is not in the repr."""
    counter = RedisCounter(wrap(f"redis://:{SECRET}@127.0.0.1:{valkey.port}"))
    counter(call())

    assert counter.flush()
    assert SECRET not in repr(counter)
    counter.ping()
    counter.close()


@pytest.mark.parametrize("credentials", [f":not-{SECRET}", f"nobody:{SECRET}", ""])
def test_a_wrong_password(valkey, credentials, caplog):
    """A wrong password, or none, is a clear error that does not show it."""
    url = f"redis://{credentials}@127.0.0.1:{valkey.port}"

    assert (
        f"The Redis server at 127.0.0.1:{valkey.port} refused the user name or the password: look at the URL"
        == why_not(url, caplog)
    )


def test_a_password_that_is_not_asked_for(caplog):
    """A server without a password refuses one; that is said."""
    with Valkey() as open_server:
        assert "refused the user name or the password" in why_not(
            f"redis://:{SECRET}@127.0.0.1:{open_server.port}", caplog
        )


def test_a_user_who_may_not(valkey, caplog):
    """A user who may not run scripts is told so."""
    admin = RedisCounter(f"redis://:{SECRET}@127.0.0.1:{valkey.port}")
    admin._server.run(
        lambda client: client.acl_setuser("reader", enabled=True, passwords=[f"+{SECRET}"], commands=["+get"])
    )
    admin.close()

    assert "reader" in why_not(f"redis://reader:{SECRET}@127.0.0.1:{valkey.port}", caplog)


def test_a_server_that_is_not_redis(caplog):
    """A web server at the address is a clear error."""
    with http_server() as port:
        said = why_not(f"redis://:{SECRET}@127.0.0.1:{port}", caplog)

    assert said.startswith(f"What answers at 127.0.0.1:{port} ")
    assert said.endswith("the Redis protocol: look at the URL")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*a\r\n",
        b"$\xff\xff\r\n",
        b":1e5\r\n",
        b"\x15\x03\x01\x00\x02\r\n",
    ],
)
def test_any_other_protocol(answer, caplog):
    """Whatever else a server says is a clear error too."""

    def say(connection):
        while connection.recv(65536):
            connection.sendall(answer)

    with listening(say) as port:
        assert "does not speak the Redis protocol" in why_not(f"redis://:{SECRET}@127.0.0.1:{port}", caplog)


@pytest.mark.parametrize("error", ["ERR unknown command 'AUTH', with args beginning with:", "DENIED what is"])
def test_a_server_that_quotes_the_password(error, caplog):
    """The password is not shown even when the server's own error quotes it, as Redis does for unknown commands."""
    with listening(quoting(error)) as port:
        assert error.removeprefix("ERR ").partition(",")[0] in why_not(f"redis://:{SECRET}@127.0.0.1:{port}", caplog)


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_schemes(scheme):
    """valkey:// is the same as redis://; a path is the number of the database, options are redis-py's."""
    with Valkey() as running:
        counter = RedisCounter(f"{scheme}://127.0.0.1:{running.port}/3?socket_timeout=2&max_connections=5")
        counter(call())

        assert counter.flush()
        assert 1 == counter.totals().successful_requests
        with redis.Redis(port=running.port, db=3) as client:
            assert 7 == client.dbsize()
        counter.close()


def test_a_unix_socket(tmp_path):
    """unix:// is a socket's path."""
    path = tmp_path / "socket"
    with Valkey(unixsocket=path):
        counter = RedisCounter(f"unix://{path}")
        counter(call())

        assert counter.flush()
        assert f"at {path}" in repr(counter)
        counter.close()


def test_tls_is_not_spoken_to_a_plain_server(caplog):
    """rediss:// to a server without TLS is a clear error."""
    with Valkey() as running:
        assert f"127.0.0.1:{running.port}" in why_not(f"rediss://:{SECRET}@127.0.0.1:{running.port}", caplog)


def test_tls_to_a_plain_port_says_so(caplog):
    """rediss:// to a port that does not speak TLS is an error that says what the port is, not that it was slow."""
    with Valkey() as plain:
        counter = RedisCounter(f"rediss://:{SECRET}@127.0.0.1:{plain.port}")
        with pytest.raises(StoreUnavailable, match=r"does not speak TLS, which rediss:// is") as caught:
            counter.ping()
        counter.close(0)

    assert SECRET not in f"{caught.value}{caplog.text}"
