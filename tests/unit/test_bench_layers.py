"""A server's stacks by layer."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.table.layers import COLLECTOR, KERNEL, OTHER, by_layer, count, layer_of, shares

LOOP = "run (uvloop/__init__.py:92);Loop__run (loop.c:20313);task_step (_asynciomodule.c:2790)"
CYGRPC = "0x7f2987ee990d (grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so)"
OURS = "check_authorize (drawdown_server/rpc/hold_checks.py:61)"


@pytest.mark.parametrize(
    ("innermost", "layer"),
    [
        (OURS, "drawdown_server/rpc/hold_checks.py"),
        (f"{OURS};unicode_hash (libpython3.11.so.1.0)", "drawdown_server/rpc/hold_checks.py"),
        (f"{OURS};Py_DECREF (object.h:537);free (libc.so.6)", "drawdown_server/rpc/hold_checks.py"),
        (f"{OURS};gc_collect_main (libpython3.11.so.1.0);visit_decref (libpython3.11.so.1.0)", COLLECTOR),
        (f"{OURS};upb_strtable_lookup2 (_message.abi3.so);malloc (libc.so.6)", "protobuf"),
        (f"{OURS};EnumTypeWrapper.values (protobuf/internal/enum_type_wrapper.py:12)", "protobuf"),
        (f"{OURS};mpack_decode (msgspec/_core.cpython-311-x86_64-linux-gnu.so)", "msgspec"),
        (f"{OURS};Reader_gets (hiredis/hiredis.cpython-311-x86_64-linux-gnu.so)", "hiredis"),
        (f"{OURS};wait (asyncio/tasks.py:418)", "asyncio and uvloop"),
        (f"{CYGRPC};malloc (libc.so.6)", "gRPC"),
        (f"{CYGRPC};sendmsg (libc.so.6)", KERNEL),
        ("uv__io_poll (linux.c:1430);epoll_pwait (libc.so.6)", KERNEL),
        ("Pool.release (asyncpg/pool.py:100)", "asyncpg"),
        ("heap_insert (heap-inl.h:90)", "asyncio and uvloop"),
    ],
)
def test_the_innermost_frame_that_tells_a_layer_decides(innermost: str, layer: str) -> None:
    assert layer_of(f"{LOOP};{innermost}") == layer


def test_a_function_of_ours_that_is_called_like_a_system_call_is_ours() -> None:
    assert layer_of("read (drawdown_server/rpc/wire.py:3)") == "drawdown_server/rpc/wire.py"


def test_what_tells_no_layer_is_said() -> None:
    assert layer_of("0x7f298a64524a (libc.so.6)") == OTHER
    assert layer_of("no file at all") == OTHER


def test_lines_are_stacks_and_how_often_they_were_seen() -> None:
    lines = [f"{OURS} 3\n", f"{OURS};malloc (libc.so.6) 2", f"{CYGRPC} 5", "\n"]
    assert count(lines) == Counter({"drawdown_server/rpc/hold_checks.py": 5, "gRPC": 5})


def test_the_kernel_counts_itself_and_the_others_share_what_is_left() -> None:
    one, other = "drawdown_server/a.py", "drawdown_server/b.py"
    parts = shares(Counter({KERNEL: 900, "gRPC": 60, one: 30, other: 10}), 0.2)
    assert parts == pytest.approx({"gRPC": 0.48, one: 0.24, KERNEL: 0.2, other: 0.08})
    assert list(parts) == ["gRPC", one, KERNEL, other]
    assert by_layer(parts) == pytest.approx({"gRPC": 0.48, "our own modules": 0.32, KERNEL: 0.2})


def test_a_server_that_was_not_seen_has_no_shares() -> None:
    assert shares(Counter(), 1.0) == {KERNEL: 1.0}
