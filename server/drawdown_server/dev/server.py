"""``drawdown-server serve`` (or ``flush``) as a process of its own, on stores that already run.

It is managed like the servers of the embedded stack, so it can be killed and started again on the same port.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from drawdown_server.dev.process import HOST, START_TIMEOUT_S, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from drawdown_server.config import Config

Command = Literal["serve", "flush"]

READY_EVENTS: Final[dict[Command, bytes]] = {"serve": b'"server.ready"', "flush": b'"flusher.ready"'}
"""What the process logs when it has begun to work."""
PREFIX: Final = "DRAWDOWN_"


class DrawdownProcess(ServerProcess):
    """A Drawdown server on 127.0.0.1.

    Args:
        directory: Its log and lock; made when absent, kept afterwards.
        config: The stores, and every other setting but the port.
        command: ``serve``, or ``flush`` for the flusher alone.
        port: 0 takes a free one, and a restart takes that one again. ``flush`` listens on none.
        start_timeout_s: How long it may take to be ready.
    """

    title: ClassVar[str] = "Drawdown"
    port_flag: ClassVar[str] = "--grpc-port"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM  # drains

    def __init__(
        self,
        directory: Path,
        config: Config,
        *,
        command: Command = "serve",
        port: int = 0,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        super().__init__(directory, port, start_timeout_s=start_timeout_s)
        self._config = config
        self._command: Command = command

    @property
    def url(self) -> str:
        """``host:port`` for a client."""
        return f"{HOST}:{self.port}"

    def _prepare(self) -> None:
        pass

    def _spawn(self, log: int, inherit: tuple[int, ...]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own program
            # -P: what lies in the current directory is not ours to import.
            [sys.executable, "-P", "-m", "drawdown_server", self._command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._environment(os.environ),
            pass_fds=inherit,
            start_new_session=True,
        )

    def _environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """Our environment with the settings of this server alone: passwords do not belong on a command line."""
        values = self._config.model_dump(mode="json", exclude_none=True)
        settings = {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items()}
        settings |= {f"{PREFIX}GRPC_HOST": HOST, f"{PREFIX}GRPC_PORT": str(self.port)}
        # Readiness is read from the log.
        settings |= {f"{PREFIX}LOG_LEVEL": "INFO", f"{PREFIX}LOG_FORMAT": "json"}
        return {name: value for name, value in ours.items() if not name.startswith(PREFIX)} | settings

    def _is_ready(self, pid: int) -> bool:  # noqa: ARG002 - the log is new with every start
        return READY_EVENTS[self._command] in self.log_path.read_bytes()
