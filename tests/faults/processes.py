"""``drawdown-server`` as a process of its own, to be terminated and killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

from integration.server import POLL_S, WAIT_S

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Mapping

    from drawdown_server.config import Config

Command = Literal["serve", "flush"]
RUN: Final = "from drawdown_server.__main__ import main; main()"
READY: Final = {"serve": "server.ready", "flush": "flusher.ready"}
WORKERS_READY: Final = "workers.ready"


def environment(config: Config) -> dict[str, str]:
    """The settings as a process takes them."""
    values: Mapping[str, Any] = config.model_dump()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")}
    return inherited | {f"DRAWDOWN_{name.upper()}": str(value) for name, value in values.items()}


class Program:
    """One run after the other of the same command with the same settings.

    Args:
        command: ``serve`` or ``flush``.
        config: The settings.
        directory: For its log.
        variables: Of its environment, beside the settings.
        before: Python that runs in the process before the command does, e.g. to let it die at one line.
        python: The interpreter, with the server that it finds.
    """

    def __init__(
        self,
        command: Command,
        config: Config,
        directory: Path,
        variables: Mapping[str, str] | None = None,
        before: str = "",
        python: str = sys.executable,
    ) -> None:
        self._command = command
        self._ready = READY[command] if config.workers == 1 else WORKERS_READY
        self._environment = environment(config) | dict(variables or {})
        self._before = before
        self._python = python
        self._log = directory / f"{command}-{uuid4().hex[:6]}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._was_ready = False

    @property
    def is_running(self) -> bool:
        """It was started, and nobody has taken note of its end."""
        return self._process is not None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def launch(self) -> None:
        """Start the process, and do not wait for it."""
        assert self._process is None, "started already"
        self._was_ready = False
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-c", f"{self._before}\n{RUN}", self._command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> int:
        """Wait until it serves; its port (0 for a flusher)."""
        async with asyncio.timeout(WAIT_S):
            while True:
                if self.says_ready():
                    return next(int(line.get("port", 0)) for line in self.log_lines() if self._is_ready(line))
                assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log()}"
                await asyncio.sleep(POLL_S)

    def says_ready(self) -> bool:
        """Whether this run has said that it serves."""
        self._was_ready = self._was_ready or any(self._is_ready(line) for line in self.log_lines())
        return self._was_ready

    def _is_ready(self, line: dict[str, Any]) -> bool:
        return bool(line["event"] == self._ready)

    async def start(self) -> int:
        self.launch()
        return await self.ready()

    def kill(self) -> None:
        """Kill -9, as a crash or the machine's memory would."""
        self.process.kill()
        self.process.wait()
        self._process = None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait until it has ended by itself."""
        code = await asyncio.to_thread(self.process.wait, WAIT_S)
        self._process = None
        return code

    def log(self) -> str:
        """What this run printed."""
        return self._log.read_bytes()[self._log_start :].decode() if self._log.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """The log lines of this run."""
        lines = (line for line in self.log().splitlines(keepends=True) if line.startswith("{") and line.endswith("\n"))
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        if self._process is not None:
            self.kill()


@asynccontextmanager
async def program(
    command: Command,
    config: Config,
    directory: Path,
    variables: Mapping[str, str] | None = None,
    before: str = "",
    python: str = sys.executable,
) -> AsyncIterator[Program]:
    """A started program, killed at the end if it still runs."""
    running = Program(command, config, directory, variables, before, python)
    try:
        await running.start()
        yield running
    finally:
        running.close()


def sockets_to(port: int) -> int:
    """Connections of this process, and whoever else, to a port, that are established on our side."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")  # gRPC speaks IPv4 on sockets of IPv6
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
    ]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in lines)
