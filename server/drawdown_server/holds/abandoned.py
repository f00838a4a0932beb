"""What became of commands whose caller had given up: they were sent, so they ran, and their outcome is told here."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from drawdown_server import clock
from drawdown_server.errors import DrawdownError, StoreUnavailableError
from drawdown_server.holds.messages import Reply as ScriptReply
from drawdown_server.holds.socket import ConnectionLostError

if TYPE_CHECKING:
    from drawdown_server.holds.socket import Command, Reply

log = structlog.get_logger(__name__)

LOG_INTERVAL_S: Final = 1.0
"""At most one line in this time: a store that hangs leaves thousands of them behind at once."""
UNKNOWN: Final = "UNKNOWN"
"""The connection broke: it may have run or not."""
REFUSED: Final = "REFUSED"
"""The store was in trouble and did not run it."""

_script_reply = msgspec.msgpack.Decoder(ScriptReply)


class AbandonedCalls:
    """Counts them, and logs a sample."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """By verb and outcome: the status of the script, ``UNKNOWN``, ``REFUSED``, or the reason of another error."""
        self._since_logged = 0
        self._next_log_s = 0.0

    def note(self, command: Command, reply: Reply | Exception) -> None:
        """An answer came that nobody waited for."""
        verb, outcome = verb_of(command), outcome_of(reply)
        self.counts[verb, outcome] += 1
        self._since_logged += 1
        now_s = clock.monotonic_s()
        if now_s >= self._next_log_s:
            log.info("rpc.abandoned", verb=verb, outcome=outcome, calls=self._since_logged)
            self._since_logged = 0
            self._next_log_s = now_s + LOG_INTERVAL_S


def verb_of(command: Command) -> str:
    """``commit`` of the script ``commit_0123456789``; the command itself if it calls no script."""
    name, *arguments = command
    is_script = name == b"FCALL"
    text = arguments[0] if is_script else name
    text = text.decode() if isinstance(text, bytes) else str(text)
    return text.rpartition("_")[0] if is_script else text


def outcome_of(reply: Reply | Exception) -> str:
    """In one word."""
    if isinstance(reply, ConnectionLostError):
        return UNKNOWN
    if isinstance(reply, StoreUnavailableError):
        return REFUSED
    if isinstance(reply, DrawdownError):
        return reply.reason.name
    try:
        return _script_reply.decode(reply).status if isinstance(reply, bytes) else "OK"
    except msgspec.MsgspecError:
        return "OK"  # no script's reply
