"""Where the time of a server goes: stacks that were seen while it worked, as shares of layers.

The kernel's own count says how much of the time was its, which no look at stacks from outside can; what is left is
shared among the layers by the stacks. The innermost frame that tells a layer decides: memory that a protobuf asks for
is protobuf's, an object of ours is ours.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

KERNEL: Final = "kernel"
OTHER: Final = "Python itself, and what tells no layer"
OURS: Final = "drawdown_server/"
COLLECTOR: Final = "garbage collector"
LAYERS: Final = (
    ("gRPC", r"(^|/)cygrpc\.|^grpc/|^src/python/grpcio/"),
    ("protobuf", r"^_message\.|^google/|^protobuf/|^drawdown/v1/|upb"),
    ("hiredis", r"^hiredis"),
    ("redis-py", r"^redis/"),
    ("asyncpg", r"^asyncpg|^pgproto\.|^protocol\.c$"),
    ("msgspec", r"^msgspec"),
    ("logs, traces and metrics", r"^opentelemetry|^structlog|^logging/|^prometheus_client"),
    (
        "asyncio and uvloop",
        r"^asyncio/|^_asynciomodule|^uvloop/|^(loop|loop-watcher|core|linux|stream|timer|tcp|async|queue|heap-inl)\.[ch]$",
    ),
)
"""By the file of a frame, as py-spy prints it: relative to the packages, or the source of a library's."""
COLLECTING: Final = re.compile(r"^gc_collect|^collect_generations|^deduce_unreachable|^visit_")
SYSTEM_CALLS: Final = frozenset(
    {
        *(
            "epoll_wait",
            "epoll_pwait",
            "epoll_ctl",
            "poll",
            "ppoll",
            "select",
            "write",
            "writev",
            "read",
            "readv",
            "send",
        ),
        *(
            "sendto",
            "sendmsg",
            "recv",
            "recvfrom",
            "recvmsg",
            "syscall",
            "getpid",
            "clock_nanosleep",
            "pthread_cond_wait",
        ),
        *("pthread_cond_timedwait", "__futex_abstimed_wait_common"),
    }
)
"""Of the C library: a thread whose innermost frame is one of them is in the kernel, and counted there."""
FRAME: Final = re.compile(r"^(?P<name>.*) \((?P<file>[^()]*?)(:\d+)?\)$")


@dataclass(frozen=True)
class Frame:
    """One function of a stack."""

    name: str
    file: str

    @classmethod
    def parse(cls, text: str) -> Frame:
        """As py-spy prints it: ``name (file:line)``."""
        found = FRAME.match(text)
        return cls(found["name"], found["file"]) if found else cls(text, "")


def layer_of(stack: str) -> str:
    """Of a stack, frames from the outermost to the innermost with ``;`` between them.

    Our own modules are layers of their own: ``drawdown_server/rpc/session.py``.
    """
    frames = [Frame.parse(text) for text in stack.split(";")]
    if frames[-1].name in SYSTEM_CALLS and frames[-1].file.startswith("libc."):
        return KERNEL
    for frame in reversed(frames):
        if COLLECTING.match(frame.name):
            return COLLECTOR
        if frame.file.startswith(OURS):
            return frame.file
        for layer, files in LAYERS:
            if re.search(files, frame.file):
                return layer
    return OTHER


def count(lines: Iterable[str]) -> Counter[str]:
    """Samples by layer, from lines of ``py-spy record --format raw``: a stack, a space, how often it was seen."""
    layers: Counter[str] = Counter()
    for line in lines:
        stack, _, times = line.rstrip("\n").rpartition(" ")
        if stack:
            layers[layer_of(stack)] += int(times)
    return layers


def shares(layers: Counter[str], kernel: float) -> dict[str, float]:
    """Shares of the processor time by layer, the largest first.

    Args:
        layers: Samples by layer.
        kernel: The kernel's share, as it counts itself.
    """
    seen = {layer: times for layer, times in layers.items() if layer != KERNEL}
    total = sum(seen.values()) or 1
    parts = {KERNEL: kernel} | {layer: times / total * (1 - kernel) for layer, times in seen.items()}
    return dict(sorted(parts.items(), key=lambda part: -part[1]))


def by_layer(parts: dict[str, float]) -> dict[str, float]:
    """The same, with all of our modules as one."""
    ours = sum(share for layer, share in parts.items() if layer.startswith(OURS))
    rest = {layer: share for layer, share in parts.items() if not layer.startswith(OURS)}
    return dict(sorted((rest | ({"our own modules": ours} if ours else {})).items(), key=lambda part: -part[1]))
