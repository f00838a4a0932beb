"""One server process of the embedded stack: started, watched, stopped, and never left behind.

What holds for Valkey and Postgres alike is here; ``valkey.py`` and ``postgres.py`` add what differs. The core is
synchronous (tests use it outside of any event loop); ``async with`` runs it in a thread.

Three small devices keep things tidy:

- The directory lock (``flock``) is inherited by the server and by whatever it forks, so the lock is free exactly when
  no process of a run is left, even when the run itself was killed.
- The liveness pipe's write end is inherited the same way: end of file means that the whole process tree has gone.
- The guard is a shell that waits on a pipe from us. When we die without stopping our server, by kill -9 for example,
  the pipe closes and the guard stops the server in our place.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import select
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 60.0  # replaying the log of a killed run takes seconds; a start that hangs should be noticed
STOP_GRACE_S: Final = 20.0  # a clean stop takes well under a second; after this the server is killed
LEFTOVER_GRACE_S: Final = 20.0  # how long servers of a killed run may take to stop
POLL_S: Final = 0.01
LOG_TAIL_BYTES: Final = 4_000
FREE_PORT_ATTEMPTS: Final = 5  # a free port may be taken between choosing it and listening on it

# Waits until its parent's end of the pipe is closed, then signals the server.
GUARD: Final = 'read -r _; kill -s "$1" "$2" 2>/dev/null'


PORTS: Final = (20_000, 32_000)
"""Below what Linux and macOS give to outgoing connections."""
PORT_ATTEMPTS_MAX: Final = 100


class EmbeddedStackError(Exception):
    """The embedded stack cannot run; the message is for the person who started it."""


class DirectoryLock:
    """A directory that one run at a time may use.

    Args:
        directory: Must exist. The lock file in it holds the pid of the run that has it.
        grace_s: How long servers that a killed run left behind may take to let go.
    """

    def __init__(self, directory: Path, *, grace_s: float = LEFTOVER_GRACE_S) -> None:
        self.directory = directory
        self.fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(time.monotonic() + grace_s)
        except BaseException:
            os.close(self.fd)
            raise
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, str(os.getpid()).encode(), 0)

    def _take(self, deadline: float) -> None:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            holder = os.pread(self.fd, 20, 0).decode(errors="replace").strip()
            if holder.isdecimal() and is_alive(int(holder)):
                raise EmbeddedStackError(f"data directory {self.directory} is in use by process {holder}")
            if time.monotonic() > deadline:
                raise EmbeddedStackError(
                    f"data directory {self.directory} is in use by servers that process {holder or '?'} left running"
                )
            time.sleep(POLL_S)

    def release(self) -> None:
        """Let go; the servers that inherited the lock keep it until they end."""
        os.close(self.fd)


class Startable(ABC):
    """What is started and stopped, and runs inside a ``with`` or ``async with`` block."""

    @abstractmethod
    def start(self) -> None:
        """Start and wait until it serves; what fails is stopped again."""

    @abstractmethod
    def stop(self) -> None:
        """Stop; does nothing when it is not running."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be cancelled: what it starts must not be left behind.
            await asyncio.wait([starting])
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


class ServerProcess(Startable):
    """A server with its own directory.

    Args:
        directory: Its data, configuration, log and lock; made when absent, kept afterwards.
        port: On 127.0.0.1; 0 takes a free one, and a restart takes that one again.
        inherit: File descriptors that the server is to hold open as long as it lives.
        start_timeout_s: How long it may take to answer.
    """

    title: ClassVar[str]
    port_flag: ClassVar[str]
    """The flag of ``drawdown-server dev`` that chooses the port, for messages."""
    stop_signal: ClassVar[signal.Signals]

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        inherit: tuple[int, ...] = (),
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.directory = directory.absolute()
        self.port = port
        self._port_is_ours = port == 0
        self._inherit = inherit
        self._start_timeout_s = start_timeout_s
        self._lock: DirectoryLock | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._alive_fd = -1

    @property
    @abstractmethod
    def url(self) -> str:
        """Where a client connects."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the directory ready for a start; the lock is held."""

    @abstractmethod
    def _spawn(self, log: int, inherit: tuple[int, ...]) -> subprocess.Popen[bytes]:
        """Start the program on ``self.port``, its output to ``log``."""

    @abstractmethod
    def _is_ready(self, pid: int) -> bool:
        """Whether the server answers."""

    @property
    def is_running(self) -> bool:
        """Whether it was started, and neither stopped nor killed."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The server's process id, while it runs."""
        if self._process is None:
            raise EmbeddedStackError(f"{self.title} is not running")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """What the server printed since its last start; ``log.old`` is of the start before."""
        return self.directory / "log"

    def start(self) -> None:
        """Start and wait until the server answers."""
        if self._process is not None:
            raise EmbeddedStackError(f"{self.title} is already running as process {self._process.pid}")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = DirectoryLock(self.directory)
        try:
            self._prepare()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop cleanly, by force only after a grace; does nothing when it is not running."""
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.send_signal(self.stop_signal)
                # A server that a test has stopped with SIGSTOP hears nothing until it goes on.
                process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_GRACE_S)
        self.kill()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def kill(self) -> None:
        """Kill -9, as a crash would; ``start`` starts it again on the same data and port."""
        process = self._process
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # it leads its own session, so that Ctrl-C is ours to handle
            process.wait()
            # What it had forked notices by itself that it has gone; a start before that would be refused.
            select.select([self._alive_fd], [], [], STOP_GRACE_S)
            os.close(self._alive_fd)
            self._process = None
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def restart(self) -> None:
        """Stop cleanly and start again on the same data and port."""
        self.stop()
        self.start()

    def _launch(self) -> None:
        for attempt in range(1, FREE_PORT_ATTEMPTS + 1):
            if self.port == 0:
                self.port = free_port()
            elif not port_is_free(self.port):
                raise EmbeddedStackError(
                    f"{self.title}: port {self.port} on {HOST} is taken by another program; "
                    f"choose another with {self.port_flag} (0 takes a free one)"
                )
            self._run()
            if self._wait_until_ready():
                return
            tail = self.log_tail()
            self.kill()
            if not (self._port_is_ours and "already in use" in tail) or attempt == FREE_PORT_ATTEMPTS:
                raise EmbeddedStackError(f"{self.title} did not start; the end of {self.log_path}:\n{tail}")
            self.port = 0

    def _run(self) -> None:
        if self.log_path.exists():
            self.log_path.replace(self.log_path.with_name("log.old"))
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        alive_fd, held_open = os.pipe()
        lock = () if self._lock is None else (self._lock.fd,)
        try:
            self._process = self._spawn(log, (held_open, *lock, *self._inherit))
        except OSError as error:
            os.close(alive_fd)
            raise EmbeddedStackError(f"{self.title} cannot be started: {error}") from error
        finally:
            os.close(held_open)
            os.close(log)
        self._alive_fd = alive_fd
        signal_name = self.stop_signal.name.removeprefix("SIG")
        self._guard = subprocess.Popen(  # noqa: S603 - a constant program, our own arguments
            ["/bin/sh", "-c", GUARD, "guard", signal_name, str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                return False
            if self._is_ready(self._process.pid):
                return True
            time.sleep(POLL_S)
        return False

    def log_tail(self) -> str:
        """The last lines that the server printed."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens at the moment.

    Not one that the system hands out to clients: a server that is restarted needs its port again, and any connection
    made meanwhile could have got that one.
    """
    for _ in range(PORT_ATTEMPTS_MAX):
        port = random.randrange(*PORTS)  # noqa: S311  # no secret
        if port_is_free(port):
            return port
    raise EmbeddedStackError(f"no free port among {PORT_ATTEMPTS_MAX} tried between {PORTS[0]} and {PORTS[1]}")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
        return True
