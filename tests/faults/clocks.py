"""A clock of its own for one process, to be set while it runs."""

from __future__ import annotations

import importlib.util
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from drawdown_server.dev.valkey import valkey_binary

if TYPE_CHECKING:
    from collections.abc import Mapping

HOUR_S: Final = 3_600


@cache
def library() -> Path:
    """The library that answers for the clock; skips where there is none."""
    found = importlib.util.find_spec("libfaketime")
    if found is None or found.origin is None:
        pytest.skip("libfaketime is not installed; it is made for Linux on x86-64")
    (path,) = Path(found.origin).parent.rglob("libfaketime.so.1")
    return path


class Clock:
    """What the processes that use it take for the time of day. Their monotonic clocks stay right, as a machine's do."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._file = directory / "clock"
        self.step(0)

    def step(self, seconds: int) -> None:
        """Set it so far from the true time, for every process at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)  # a process that looks in this moment must not find an empty file

    def environment(self) -> Mapping[str, str]:
        """The variables of a process that uses it."""
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def valkey(self) -> Path:
        """A Valkey server program that uses it."""
        script = self._directory / "valkey-server"
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment().items())
        script.write_text(f'#!/bin/sh\n{variables} exec {shlex.quote(str(valkey_binary()))} "$@"\n')
        script.chmod(0o700)
        return script
