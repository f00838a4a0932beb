from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawdown.v1 import authorization_service_pb2
from drawdown_server.errors import ErrorReason, TryLaterError
from drawdown_server.rpc.admission import CALLERS_KEPT, SETTLING, Admission

AUTHORIZE = "drawdown.v1.AuthorizationService/Authorize"
COMMIT = "drawdown.v1.AuthorizationService/Commit"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> int:
        return int(self.now_s * 1e9)


def admitted(admission: Admission, method: str = AUTHORIZE, principal: str = "key:a", tenant: str = "acme") -> bool:
    try:
        admission.check_rate(method, tenant, principal)
    except TryLaterError as error:
        assert error.reason is ErrorReason.RATE_LIMITED
        return False
    return True


def test_the_methods_that_settle_exist() -> None:
    service = authorization_service_pb2.DESCRIPTOR.services_by_name["AuthorizationService"]
    assert {f"{service.full_name}/{name}" for name in service.methods_by_name} >= SETTLING


@pytest.mark.parametrize(
    ("method", "in_flight", "gets_in"),
    [(AUTHORIZE, 75, True), (AUTHORIZE, 76, False), (COMMIT, 76, True), (COMMIT, 100, True), (COMMIT, 101, False)],
)
def test_the_last_quarter_is_for_calls_that_settle(method: str, in_flight: int, gets_in: bool) -> None:
    admission = Admission(calls_max=100, calls_per_s=0)
    if gets_in:
        admission.check_load(method, in_flight)
        assert not admission.refused
    else:
        with pytest.raises(TryLaterError) as refused:
            admission.check_load(method, in_flight)
        assert refused.value.reason is ErrorReason.OVERLOADED
        assert refused.value.retry_ms > 0
        assert admission.refused == {ErrorReason.OVERLOADED: 1}


@pytest.mark.parametrize("method", [AUTHORIZE, COMMIT])
def test_a_process_that_may_have_one_call_has_one(method: str) -> None:
    admission = Admission(calls_max=1, calls_per_s=0)
    admission.check_load(method, 1)
    with pytest.raises(TryLaterError):
        admission.check_load(method, 2)


def test_a_caller_may_send_a_second_of_calls_at_once_and_then_its_rate() -> None:
    clock = Clock()
    admission = Admission(calls_max=100, calls_per_s=10, now_ns=clock)
    assert [admitted(admission) for _ in range(12)] == [True] * 10 + [False] * 2
    clock.now_s += 0.1001
    assert [admitted(admission) for _ in range(2)] == [True, False]
    clock.now_s += 3600
    assert [admitted(admission) for _ in range(11)] == [True] * 10 + [False]


def test_what_settles_may_overdraw_the_bucket_once() -> None:
    admission = Admission(calls_max=100, calls_per_s=10, now_ns=Clock())
    assert [admitted(admission) for _ in range(11)] == [True] * 10 + [False]
    assert [admitted(admission, COMMIT) for _ in range(11)] == [True] * 10 + [False]


def test_callers_do_not_share_a_bucket() -> None:
    admission = Admission(calls_max=100, calls_per_s=1, now_ns=Clock())
    assert admitted(admission, principal="key:a")
    assert admitted(admission, principal="key:b")
    assert admitted(admission, principal="key:a", tenant="other")
    assert not admitted(admission, principal="key:a")


def test_no_rate_is_no_limit() -> None:
    admission = Admission(calls_max=100, calls_per_s=0, now_ns=Clock())
    assert all(admitted(admission) for _ in range(1_000))


@given(rate=st.integers(1, 1_000), steps=st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=60))
def test_a_refused_call_gets_in_after_the_time_that_it_was_told_and_no_sooner(
    rate: int, steps: list[tuple[bool, float]]
) -> None:
    clock = Clock()
    admission = Admission(calls_max=100, calls_per_s=rate, now_ns=clock)
    for settles, pause_s in steps:
        method = COMMIT if settles else AUTHORIZE
        while True:
            try:
                admission.check_rate(method, "acme", "key:a")
            except TryLaterError as error:
                clock.now_s += (error.retry_ms - 2) / 1000
                if error.retry_ms > 2:
                    assert not admitted(admission, method)
                clock.now_s += 0.002
                assert admitted(admission, method)
                break
        clock.now_s += pause_s


def test_callers_that_are_silent_are_forgotten_and_others_are_not() -> None:
    clock = Clock()
    admission = Admission(calls_max=100, calls_per_s=1, now_ns=clock)
    for number in range(CALLERS_KEPT - 1):
        assert admitted(admission, principal=f"token:{number}")
    clock.now_s += 10
    assert admitted(admission, principal="key:busy")
    assert admitted(admission, principal="one more")
    assert admission.callers == 2
    assert not admitted(admission, principal="key:busy")
