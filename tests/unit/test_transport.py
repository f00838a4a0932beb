"""What the transport promises to long streams."""

from __future__ import annotations

import pytest

from drawdown_server.rpc.transport import AGE_JITTER, server_options, session_age_s


@pytest.mark.parametrize("age_s", [0.5, 30.0, 300.0, 86_400.0])
def test_a_session_is_asked_to_leave_when_its_connection_is_old_for_certain_and_before_it_is_cut(age_s: float) -> None:
    options = dict(server_options(connections_max=10, connection_age_s=age_s, shares_ports=False))
    grace_s = options["grpc.max_connection_age_grace_ms"] / 1000
    assert (1 + AGE_JITTER) * age_s < session_age_s(age_s) < (1 - AGE_JITTER) * age_s + grace_s
