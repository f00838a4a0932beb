"""What the metrics get to know of the scripts' replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drawdown_server.holds.model import HoldState

if TYPE_CHECKING:
    from drawdown_server.holds.messages import AuthorizeReply, SettleReply
    from drawdown_server.telemetry.metrics import Metrics

OUTCOMES: Final = {HoldState.COMMITTED: "committed", HoldState.RELEASED: "released"}
"""What a settled hold's age is counted under."""


def count_decision(metrics: Metrics, verb: str, reply: AuthorizeReply) -> None:
    """A hold was wanted: granted or denied."""
    if reply.replayed:
        metrics.replay(verb)
    elif reply.reason is not None:
        metrics.decision(verb, reply.reason, reply.asset)
    else:
        metrics.decision(verb, "", reply.hold.amounts[0].asset if reply.hold and reply.hold.amounts else "")


def count_settlement(metrics: Metrics, verb: str, reply: SettleReply) -> None:
    """A hold was committed or released; a report of progress ends nothing, and a refund's hold had ended before."""
    hold = reply.hold
    if reply.replayed:
        metrics.replay(verb)
    elif hold is not None and hold.state in OUTCOMES and verb != "refund":
        late = "_late" if hold.late else ""
        metrics.hold_settled(OUTCOMES[hold.state] + late, hold.settle_ms - hold.create_ms)
