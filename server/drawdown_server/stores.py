"""The two stores as the parts of a process share them."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drawdown_server.holds.nodes import Nodes
    from drawdown_server.holds.store import HoldStore
    from drawdown_server.ledger.confirming import Confirmations
    from drawdown_server.ledger.presence import Presence
    from drawdown_server.ledger.store import LedgerStore


@dataclass(frozen=True, slots=True)
class Stores:
    """The two stores, open and fit to serve."""

    nodes: Nodes
    holds: HoldStore
    ledger: LedgerStore
    presence: Presence
    confirmations: Confirmations


def process_name() -> str:
    """Unique per process start, and of use to people."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
