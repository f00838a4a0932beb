"""The C load generators: built for one run, and what a run of them found out.

They send prepared bytes in which only the numbers change, and look at the first bytes of each answer, so that they
take a few microseconds per call. A generator in Python would take as long as the server does.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES: Final = Path(__file__).parent
NUMBER: Final = "@" * 12
"""Becomes the number of the call: no two calls of a run are for the same hold."""
WALLET: Final = "~" * 6
"""Becomes the number of a wallet."""
HOST: Final = "127.0.0.1"
PROGRAMS: Final = {"grpc": ("http2", "common"), "pipeline": ("common",)}
OPTIONS: Final = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE")
PIPELINE_ANSWERS: Final = {"resp": "OK", "http1": '"approved":true'}
"""What every good answer has in it."""
RUN_TIMEOUT_S: Final = 60.0
"""A run takes about a second; a server that does not answer must not hold up the table for ever."""
CALLS_PER_CONNECTION: Final = 32
"""More connections than clients of our own would have cost a server more; fewer keep it from nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call, or a part of one: an Authorize, and the Commit after it.

    Args:
        method: Full name without the leading slash; of a Session or a Batch, that one's.
        message: With ``NUMBER`` and ``WALLET`` where they change; for those two an ``Operation``.
        answer: First bytes of the message of every good answer.
    """

    method: str
    message: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """One run of a generator."""

    calls: int
    failed: int
    messages: int
    """That answers came in: fewer than calls where the server put several into one."""
    bytes_in: int
    bytes_out: int
    seconds: float
    cpu_seconds: float
    """Of the generator."""
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds

    @classmethod
    def of_calls(cls, calls: int, messages: int, seconds: float) -> Result:
        """Of work that no generator asked for, and whose single calls nobody timed."""
        return cls(calls, 0, messages, 0, 0, seconds, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Calls:
    """Which calls a run makes.

    Args:
        count: In all.
        first: Number of the first.
        wallets: Wallets, numbered from 0.
        concurrency: Calls at once; in a Batch, messages at once.
        rate: Calls per second at most; 0: as fast as they are answered.
    """

    count: int
    first: int
    wallets: int
    concurrency: int
    rate: int = 0


class Generator:
    """Sends calls.

    Args:
        directory: For the programs, and the messages that they send.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = count()
        for name, parts in PROGRAMS.items():
            sources = [str(SOURCES / f"{part}.c") for part in (name, *parts)]
            subprocess.run(["cc", *OPTIONS, "-o", str(directory / name), *sources], check=True)

    async def grpc(
        self, port: int, steps: Sequence[Step], calls: Calls, *, mode: str = "unary", key: str = ""
    ) -> Result:
        """Calls over gRPC.

        Args:
            port: Of the server, on this machine.
            steps: What each call does, one after the other.
            calls: Which calls.
            mode: ``unary``, ``session``, or ``batch:32``.
            key: API key; empty: none.
        """
        connections = -(-calls.concurrency // CALLS_PER_CONNECTION)
        numbers = map(str, (calls.concurrency, connections, calls.count, calls.first, calls.wallets, calls.rate))
        of_steps = [
            argument
            for step in steps
            for argument in (f"/{step.method}", str(self._file(step.message)), step.answer.hex())
        ]
        authorization = f"Bearer {key}" if key else "-"
        return await self._run("grpc", mode, HOST, str(port), *numbers, authorization, *of_steps)

    async def pipeline(
        self, port: int, message: bytes, calls: Calls, *, protocol: Literal["resp", "http1"], connections: int
    ) -> Result:
        """Calls on connections whose answers come in the calls' order.

        Args:
            port: Of the server, on this machine.
            message: The bytes of one call.
            calls: Which calls.
            protocol: resp: Valkey's; http1: with a Content-Length.
            connections: How many.
        """
        numbers = map(str, (calls.concurrency, connections, calls.count, calls.first, calls.wallets))
        file = str(self._file(message))
        return await self._run("pipeline", HOST, str(port), file, *numbers, protocol, PIPELINE_ANSWERS[protocol])

    def _file(self, content: bytes) -> Path:
        """A file with the bytes of one call."""
        path = self._directory / f"call-{next(self._files)}"
        path.write_bytes(content)
        return path

    async def _run(self, program: str, *arguments: str) -> Result:
        process = await asyncio.create_subprocess_exec(
            str(self._directory / program), *arguments, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                printed, _ = await process.communicate()
        except TimeoutError:
            raise RuntimeError(f"{program} {' '.join(arguments)} did not end") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise RuntimeError(f"{program} {' '.join(arguments)} failed")
        result = Result(**json.loads(printed))
        if result.failed:
            raise RuntimeError(
                f"{program}: {result.failed} of {result.calls} calls were not answered as they should be"
            )
        return result
