"""The end of a server, in the order in which no call is lost.

    1  whoever asks is told to send nobody here any more (``Health.leave``), and time passes for them to notice; calls
       are taken as ever
    2  no new connections; clients that follow our health are told to leave, calls that still come are refused, until
       none has come for a moment
    3  gRPC says goodbye on every connection (GOAWAY): clients connect anew, to another server behind the same name or
       port; calls in flight go on until they are answered or the grace is over

What is refused in 2 was not begun, so callers send it again (UNAVAILABLE), and by then the connection is gone. A client
that stayed connected in 2 for long would meet this server again with each of its tries; one that is not given that
moment has calls under way when gRPC shuts down, which ends them with CANCELLED.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import grpc

    from drawdown_server.rpc.health import Health
    from drawdown_server.rpc.interceptor import CallInterceptor

QUIET_S: Final = 0.02
"""Without a new call for so long, nothing is under way from a client that was told to leave."""
QUIET_WAIT_S: Final = 0.1
"""How long to wait for that: clients that do not follow our health never fall silent, and the second retry of a call
must find the connection gone (ours comes after 160 ms at the earliest)."""
LOOK_S: Final = 0.005
"""Between two looks for new calls."""
LAST_ANSWERS_S: Final = 0.25
"""From the end of the last call until its answer is on the wire. Then streams that never end, as Watch, are ended."""
DESCRIPTORS: Final = Path("/dev/fd")
"""The open files of this process, by number."""


async def end_calls(server: grpc.aio.Server, calls: CallInterceptor, health: Health, port: int, grace_s: float) -> None:
    """Steps 2 and 3: send everybody away, let calls in flight finish, end the rest.

    Args:
        server: Started.
        calls: What it is doing.
        health: What it says of itself.
        port: Of its services.
        grace_s: How long calls in flight may take.
    """
    stop_listening(port)
    calls.refuse_new()
    with suppress(TimeoutError):
        async with asyncio.timeout(QUIET_WAIT_S):
            await health.send_away()
            await _quiet(calls)
    stopping = asyncio.create_task(server.stop(grace_s))
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await calls.idle()
    await server.stop(LAST_ANSWERS_S)
    await stopping


async def _quiet(calls: CallInterceptor) -> None:
    """Return when no call has come for ``QUIET_S``."""
    loop = asyncio.get_running_loop()
    refused, since = calls.refused, loop.time()
    while loop.time() - since < QUIET_S:
        await asyncio.sleep(LOOK_S)
        if calls.refused != refused:
            refused, since = calls.refused, loop.time()


def stop_listening(port: int) -> None:
    """Take no more connections on a port, at once.

    gRPC closes its listening sockets only after its goodbye. Where several processes share the port, the kernel would
    give some of the clients that come back to the one that is ending, and reset them when it closes. gRPC offers no
    way to its sockets, so they are found among the files of the process.
    """
    for file in DESCRIPTORS.iterdir() if DESCRIPTORS.exists() else ():
        with suppress(OSError):
            descriptor = int(file.name)
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as found:
                    if _listens(found, port):
                        found.shutdown(socket.SHUT_RD)


def _listens(found: socket.socket, port: int) -> bool:
    is_tcp = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
    return is_tcp and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and found.getsockname()[1] == port
