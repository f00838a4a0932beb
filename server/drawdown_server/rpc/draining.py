"""The end of a server, in the order in which no call is lost.

    1  whoever asks is told to send nobody here any more (``Health.leave``), and time passes for them to notice; calls
       are taken as ever
    2  no new connections; clients that follow our health, and those of Sessions, are told to leave. Calls go on to be
       taken until none has come for a moment; if they do not cease, they are refused for a moment
    3  gRPC says goodbye on every connection (GOAWAY): clients connect anew, to another server behind the same name or
       port; calls in flight go on until they are answered or the grace is over

What is refused in 2 was not begun, so callers send it again (UNAVAILABLE), and by then the connection is gone. A client
that stayed connected in 2 for long would meet this server again with each of its tries. Without that moment calls would
be under way when gRPC shuts down, which ends them with CANCELLED.
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
    from collections.abc import Collection

    import grpc

    from drawdown_server.rpc.gate import Gate
    from drawdown_server.rpc.health import Health

QUIET_S: Final = 0.02
"""Without a new call for so long, nothing is under way from a client that was told to leave."""
LEAVE_WAIT_S: Final = 0.05
"""How long to wait for that: a client that follows our health leaves in a millisecond. Others never cease."""
REFUSE_WAIT_S: Final = 0.05
"""How long to refuse their calls at most. The second retry of a call must find the connection gone: our client's comes
120 ms after the call at the earliest."""
LOOK_S: Final = 0.005
"""Between two looks for new calls."""
LAST_ANSWERS_S: Final = 0.25
"""From the end of the last call until its answer is on the wire. Then streams that never end, as Watch, are ended."""
DESCRIPTORS: Final = Path("/dev/fd")
"""The open files of this process, by number."""


async def end_calls(
    server: grpc.aio.Server, gate: Gate, health: Health, ports: Collection[int | None], grace_s: float
) -> None:
    """Steps 2 and 3: send everybody away, let calls in flight finish, end the rest.

    Args:
        server: Started.
        gate: What it is doing.
        health: What it says of itself.
        ports: Where it listens; None among them is none.
        grace_s: How long calls in flight may take.
    """
    stop_listening(ports)
    gate.send_away_for_good()
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_WAIT_S):
            await health.send_away()
            await _quiet(gate)
    gate.refuse_new()
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSE_WAIT_S):
            await _quiet(gate)
    stopping = asyncio.create_task(server.stop(grace_s))
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await gate.idle()
    await server.stop(LAST_ANSWERS_S)
    await stopping


async def _quiet(gate: Gate) -> None:
    """Return when no call has come for ``QUIET_S``."""
    loop = asyncio.get_running_loop()
    arrived, since = gate.arrived, loop.time()
    while loop.time() - since < QUIET_S:
        await asyncio.sleep(LOOK_S)
        if gate.arrived != arrived:
            arrived, since = gate.arrived, loop.time()


def stop_listening(ports: Collection[int | None]) -> None:
    """Take no more connections on these ports, at once.

    gRPC closes its listening sockets only after its goodbye. Where several processes share a port, the kernel would
    give some of the clients that come back to the one that is ending, and reset them when it closes. gRPC offers no
    way to its sockets, so they are found among the files of the process.
    """
    for file in DESCRIPTORS.iterdir() if DESCRIPTORS.exists() else ():
        with suppress(OSError):
            descriptor = int(file.name)
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as found:
                    if _listens(found, ports):
                        found.shutdown(socket.SHUT_RD)


def _listens(found: socket.socket, ports: Collection[int | None]) -> bool:
    is_tcp = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
    return (
        is_tcp and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and found.getsockname()[1] in ports
    )
