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
    from google.protobuf.message import Message

SOURCES: Final = Path(__file__).parent
NUMBER: Final = "@" * 12
"""Becomes the number of the call: no two calls of a run are for the same hold."""
WALLET: Final = "~" * 6
"""Becomes the number of a wallet."""
CALLS_PER_CONNECTION: Final = 32
"""More connections than clients of our own would have cost a server more; fewer keep it from nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run of a generator."""

    calls: int
    failed: int
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


class Generator:
    """Sends calls.

    Args:
        directory: For the programs, and the messages that they send.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = count()
        for name in ("grpc", "pipeline"):
            sources = [str(SOURCES / f"{name}.c"), str(SOURCES / "common.c")]
            options = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
            subprocess.run(["cc", *options, "-o", str(directory / name), *sources], check=True)

    def file(self, content: bytes) -> Path:
        """A file with the bytes of one call."""
        path = self._directory / f"call-{next(self._files)}"
        path.write_bytes(content)
        return path

    async def grpc(
        self,
        port: int,
        method: str,
        request: Message,
        *,
        answer: bytes,
        concurrency: int,
        calls: int,
        first: int,
        wallets: int,
        key: str = "",
    ) -> Result:
        """Calls of one method.

        Args:
            port: Of the server, on this machine.
            method: Full name without the leading slash.
            request: With ``NUMBER`` and ``WALLET`` where they change.
            answer: First bytes of the message of every good answer.
            concurrency: Calls at once.
            calls: In all.
            first: Number of the first.
            wallets: Wallets, numbered from 0.
            key: API key; empty: none.
        """
        connections = -(-concurrency // CALLS_PER_CONNECTION)
        numbers = map(str, (concurrency, connections, calls, first, wallets))
        file = self.file(request.SerializeToString())
        authorization = [f"Bearer {key}"] if key else []
        return await self._run(
            "grpc", "127.0.0.1", str(port), f"/{method}", str(file), *numbers, answer.hex(), *authorization
        )

    async def pipeline(
        self,
        port: int,
        message: bytes,
        *,
        protocol: Literal["resp", "http1"],
        answer: str,
        in_flight: int,
        connections: int,
        calls: int,
        first: int,
        wallets: int,
    ) -> Result:
        """Calls on connections whose answers come in the calls' order; see ``grpc``."""
        numbers = map(str, (in_flight, connections, calls, first, wallets))
        return await self._run("pipeline", "127.0.0.1", str(port), str(self.file(message)), *numbers, protocol, answer)

    async def _run(self, program: str, *arguments: str) -> Result:
        process = await asyncio.create_subprocess_exec(
            str(self._directory / program), *arguments, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"{program} {' '.join(arguments)} failed")
        result = Result(**json.loads(printed))
        if result.failed:
            raise RuntimeError(
                f"{program}: {result.failed} of {result.calls} calls were not answered as they should be"
            )
        return result
