"""``drawdown-server serve --workers N``, and the hidden ``worker`` that it starts N times."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import structlog

from drawdown_server.app import serve
from drawdown_server.background import DRAIN_EXTRA_S
from drawdown_server.commands.check_config import port_problems
from drawdown_server.errors import ConfigurationError
from drawdown_server.garbage import keep_what_is_loaded
from drawdown_server.workers.link import WorkerLink
from drawdown_server.workers.port import reserved_port
from drawdown_server.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drawdown_server.config import Config

log = structlog.get_logger(__name__)

END_EXTRA_S: Final = 10.0
"""Beyond the times that the settings give: closing connections, giving leases back."""


async def run_workers(config: Config, arguments: Sequence[str]) -> int:
    """Supervise ``config.workers`` processes that serve the same ports.

    Args:
        config: The settings.
        arguments: The flags that they came from; each worker reads them, and the environment, again.

    Returns:
        The exit status.

    Raises:
        ConfigurationError: A port is taken, or is wanted twice.
    """
    if problems := port_problems(config):
        raise ConfigurationError("; ".join(problems))
    with ExitStack() as opened:
        ports = {"grpc_port": opened.enter_context(reserved_port(config.grpc_host, config.grpc_port, "grpc_port"))}
        if (port := config.grpc_certificate_port) is not None:
            reserved = reserved_port(config.grpc_host, port, "grpc_certificate_port")
            ports["grpc_certificate_port"] = opened.enter_context(reserved)
        flags = [part for name, port in ports.items() for part in (f"--{name.replace('_', '-')}", str(port))]

        def command(index: int, link: int) -> list[str]:
            place = ["--worker-index", str(index), "--worker-link", str(link)]
            # The last of two equal flags wins: the ports that were reserved stand after what was asked for.
            return [sys.executable, "-m", "drawdown_server", "worker", *place, *arguments, *flags]

        def say_ready() -> None:
            log.info("workers.ready", host=config.grpc_host, port=ports["grpc_port"], workers=config.workers)

        end_wait_s = config.drain_delay_s + config.drain_grace_s + DRAIN_EXTRA_S + END_EXTRA_S
        return await Supervisor(command, config.workers, end_wait_s=end_wait_s, on_ready=say_ready).run()


async def run_worker(config: Config, *, index: int, link: int) -> None:
    """Serve as one of several processes.

    Args:
        config: The settings, with the ports that are shared.
        index: Its place among the workers; its admin port is so much higher.
        link: The descriptor of the socket to its supervisor.

    Raises:
        ConfigurationError: As ``serve``.
        StoreUnavailableError: As ``serve``.
    """
    if config.admin_port:
        config = config.model_copy(update={"admin_port": config.admin_port + index})
    stop = asyncio.Event()
    async with WorkerLink(link, stop) as supervisor:

        def say_ready(_: int) -> None:
            keep_what_is_loaded()
            supervisor.say_ready()

        await serve(
            config,
            stop=stop,
            on_ready=say_ready,
            is_replaced=lambda: supervisor.is_replaced,
        )
