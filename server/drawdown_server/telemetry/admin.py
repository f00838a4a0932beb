"""The admin port: plain HTTP for Prometheus and for probes, none of the product's own calls.

=========  ==========================================================================================================
/healthz   200 while the event loop answers; 503 when it doesn't within ``LOOP_TIMEOUT_S``. Never asks a store
/readyz    200 while calls succeed, else 503; in both cases JSON with what is wrong, by name
/metrics   all metrics in Prometheus' text format
/config    every setting as JSON, secrets masked
=========  ==========================================================================================================

It runs in threads of its own, on the server that Python ships: a scrape is turned into text beside the event loop, and
a stuck event loop can be told from a healthy one. Everything about the program's state is asked in the event loop.
The port has no credentials: bind it to an address that only operators reach.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import structlog

from drawdown_server.errors import ConfigurationError, DrawdownError
from drawdown_server.telemetry import prometheus

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    from drawdown_server.config import Config
    from drawdown_server.telemetry.instruments import Registry

log = structlog.get_logger(__name__)

LOOP_TIMEOUT_S: Final = 2.0
"""How long the event loop may take to answer; garbage collection and bursts take milliseconds."""
CHECK_TIMEOUT_S: Final = 1.0
"""How long the checks of readiness may take; a healthy store needs a millisecond."""
SOCKET_TIMEOUT_S: Final = 5.0
"""How long a client may take to send its request or to read the answer."""
REQUESTS_MAX: Final = 16
"""Requests at once: a few scrapers and probes. Further ones are dropped, so that threads do not grow without end."""
JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

Check: TypeAlias = "Callable[[], Awaitable[None]]"

_T = TypeVar("_T")


class AdminRoutes:
    """What the admin port answers.

    Args:
        config: The settings.
        registry: The metrics.
        checks: What a call needs; each raises a ``DrawdownError`` when it is not there.
    """

    def __init__(self, config: Config, registry: Registry, checks: Sequence[Check]) -> None:
        self._config = config.masked()
        self._registry = registry
        self._checks = checks
        self._loop = asyncio.get_running_loop()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path; called in a thread that is not the event loop's."""
        try:
            match path.partition("?")[0]:
                case "/healthz":
                    self._in_loop(_nothing())
                    return HTTPStatus.OK, TEXT, b"ok\n"
                case "/readyz":
                    problems = self._in_loop(self._problems())
                    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
                    return status, JSON, _json({"ready": not problems, "problems": problems})
                case "/metrics":
                    readings = self._in_loop(_result_of(self._registry.read))
                    return HTTPStatus.OK, prometheus.CONTENT_TYPE, prometheus.render(readings)
                case "/config":
                    return HTTPStatus.OK, JSON, _json(self._config)
        except TimeoutError:
            return HTTPStatus.SERVICE_UNAVAILABLE, TEXT, b"the event loop does not answer\n"
        return HTTPStatus.NOT_FOUND, TEXT, b"there is /healthz, /readyz, /metrics and /config\n"

    async def _problems(self) -> dict[str, str]:
        """What is missing, by the name of the store."""
        problems = {}
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                found = await asyncio.gather(*(check() for check in self._checks), return_exceptions=True)
        except TimeoutError:
            return {"checks": f"no answer within {CHECK_TIMEOUT_S:g} s"}
        for error in found:
            if isinstance(error, DrawdownError):
                problems[error.metadata.get("store", "server")] = error.message
            elif error is not None:
                problems["server"] = f"a check failed: {type(error).__name__}"
        return problems

    def _in_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(LOOP_TIMEOUT_S)
        except TimeoutError:
            future.cancel()
            raise


class _Handler(BaseHTTPRequestHandler):
    """One request: GET or HEAD of a route."""

    server: _HttpServer
    timeout = SOCKET_TIMEOUT_S
    server_version = "drawdown-admin"
    sys_version = ""

    def do_GET(self) -> None:  # http.server's name
        status, content_type, body = self._answer()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's signature
        """Nothing: probes come every few seconds."""

    def _answer(self) -> tuple[HTTPStatus, str, bytes]:
        try:
            return self.server.routes.answer(self.path)
        except Exception:
            log.exception("admin.failed", path=self.path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, b"internal error\n"


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that reads slowly must not hold up the end of the process

    def __init__(self, address: tuple[str, int], routes: AdminRoutes, *, shares_port: bool) -> None:
        self.allow_reuse_port = shares_port
        super().__init__(address, _Handler)
        self.routes = routes
        self._room = threading.BoundedSemaphore(REQUESTS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  # socketserver's signature
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """A client that went away is no news."""


@asynccontextmanager
async def open_admin(
    config: Config, registry: Registry, *checks: Check, shares_port: bool = False
) -> AsyncIterator[None]:
    """Serve the admin port inside the block, if the settings ask for one.

    Args:
        config: The settings.
        registry: As in ``AdminRoutes``.
        checks: As in ``AdminRoutes``.
        shares_port: Whether the process whose place this one takes may still have the port.

    Raises:
        ConfigurationError: The port is taken or the address is not ours.
    """
    if config.admin_port is None:
        yield
        return
    host, port = config.admin_host, config.admin_port
    try:
        server = _HttpServer((host, port), AdminRoutes(config, registry, checks), shares_port=shares_port)
    except OSError:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: the port is taken or the address is not ours. "
            "Choose another with --admin-port or DRAWDOWN_ADMIN_PORT."
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="admin", daemon=True)
    thread.start()
    log.info("admin.ready", host=host, port=server.server_port)
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


async def _nothing() -> None:
    """What an event loop that is alive can do."""


async def _result_of(read: Callable[[], _T]) -> _T:
    return read()
