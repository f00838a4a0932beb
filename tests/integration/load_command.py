"""``drawdown load`` as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAIT_S: Final = 100.0
"""For a run and the start of its processes, on a loaded machine."""
WALLETS: Final = 5


class Run:
    """One run of the command, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def press_ctrl_c(self) -> None:
        """SIGINT to every process of the run, as a terminal sends it."""
        os.killpg(self.process.pid, signal.SIGINT)

    async def end(self) -> tuple[int, Any, str]:
        """Exit code, the document, and stderr."""
        out, err = await asyncio.wait_for(self.process.communicate(), WAIT_S)
        code = self.process.returncode
        assert code is not None
        return code, json.loads(out) if out else None, err.decode()


@asynccontextmanager
async def started(target: str, *words: str) -> AsyncIterator[Run]:
    """The command, begun; killed at the end if it should still run."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drawdown", "--target", target, "load", "--json", "--wallets", str(WALLETS), *words,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )  # fmt: skip
    try:
        yield Run(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def load(target: str, *words: str) -> tuple[int, Any, str]:
    async with started(target, *words) as run:
        return await run.end()
