"""What load balancers are told: SERVING while this server and Valkey answer.

Postgres is not asked: without it holds go on. ``liveness`` says only that the process answers, and never depends on a
store: a restart mends none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]  # its stubs lag behind

from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    import grpc

log = structlog.get_logger(__name__)

LIVENESS: Final = "liveness"
"""Health name that says only that the process answers."""
PROBE_INTERVAL_S: Final = 0.5
"""Shorter than the interval of load balancers that ask. It costs Valkey two PINGs a second per server."""
DRAINING: Final = StoreUnavailableError("server", "this server is draining")
_STATUS: Final = health_pb2.HealthCheckResponse


class _Servicer(health_aio.HealthServicer):  # type: ignore[misc]  # it has no types
    """Check and Watch, which part ways while a server ends."""

    is_leaving = False

    async def Check(  # noqa: N802  # the service's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> health_pb2.HealthCheckResponse:
        reply: health_pb2.HealthCheckResponse = await super().Check(request, context)
        if self.is_leaving and request.service != LIVENESS:
            return health_pb2.HealthCheckResponse(status=_STATUS.NOT_SERVING)
        return reply


class Health:
    """The health service of this server.

    Args:
        services: Full names of our own services.
        on_problem: Called after it was told that there is a problem: what health checks do not end, open streams, is to
            be left as well.
    """

    def __init__(self, services: Sequence[str], on_problem: Callable[[], None] = lambda: None) -> None:
        self._names = ("", *services)
        self._on_problem = on_problem
        self._servicer = _Servicer()
        self._problem: DrawdownError | None = StoreUnavailableError("server", "this server is starting")

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve Check and Watch."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def tell(self, problem: DrawdownError | None) -> None:
        """Say NOT_SERVING for every service because of a problem, SERVING when there is none; liveness is SERVING."""
        changed = (problem is None) is not (self._problem is None)
        self._problem = problem
        if not changed:
            return
        for name in self._names:
            await self._servicer.set(name, _STATUS.SERVING if problem is None else _STATUS.NOT_SERVING)
        await self._servicer.set(LIVENESS, _STATUS.SERVING)
        if problem is not None:
            self._on_problem()

    def leave(self) -> None:
        """Tell those who ask (Check, readiness) to send nobody here; those who are connected (Watch) stay for now.

        A client that follows Watch and knows no other address would only fail until its connection ends.
        """
        self._servicer.is_leaving = True

    async def send_away(self) -> None:
        """Tell everybody to leave, also those who are connected."""
        self.leave()
        await self.tell(DRAINING)

    async def check(self) -> None:
        """What was said last, for others who are asked whether this server is ready.

        Raises:
            StoreUnavailableError: The problem.
        """
        problem = DRAINING if self._servicer.is_leaving else self._problem
        if problem is not None:
            raise StoreUnavailableError(problem.metadata.get("store", "server"), problem.message)

    async def watch(self, probe: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        """Follow a probe that raises a ``DrawdownError`` while calls would fail, until told to stop."""
        while not stop.is_set():
            problem = await _problem_of(probe)
            if stop.is_set():  # what is said from here on is not ours to change
                return
            if (problem is None) is not (self._problem is None):
                log.warning("health.changed", serving=problem is None)
            await self.tell(problem)
            await stopped(stop, PROBE_INTERVAL_S)


async def _problem_of(probe: Callable[[], Awaitable[None]]) -> DrawdownError | None:
    try:
        await probe()
    except DrawdownError as error:
        return error
    return None
