"""The rules of a wallet in plain Python: what they are, written to be read.

This is documentation that runs. It shares no code with the Lua scripts, so that two people have to misread a rule in
the same way before a bug gets through: property tests compare the two answer by answer, and the simulator audits with
it. It does no I/O, knows no epochs and is not fast; time is whatever ``ModelStore.now_ms`` says.

=============  ====================================================================================================
``grants``     one asset of a wallet: grants that stack and burn in order, pins, time, debt and overdraft
``caps``       windows, counters, which cap applies to whom, and how much it leaves
``hold``       a reservation and what became of it
``wallet``     all of the above together, and the events that go to the ledger
``authorize``  Authorize, Charge, Extend: what may be held
``settle``     Commit, Release: what becomes of it
``refund``     Refund: back to the grants that paid
``recall``     a hold that is not known: as the ledger has it, or its token
``changes``    loading a wallet, and applying what an administrator decided
``store``      ``ModelStore``: one method per verb
``audit``      what must hold after every verb
=============  ====================================================================================================

Words used throughout: *live* grants are in force, *scheduled* ones will be; a *pin* ties units of a grant to a hold;
*free* units are pinned by nobody. A pin or a debit with an empty grant id belongs to no grant: overdraft, or debt.
"""

from __future__ import annotations

from drawdown_server.holds.rules.audit import BrokenRuleError
from drawdown_server.holds.rules.events import CapDelta, Event, EventKind, Line, LineKind, SettledAmount
from drawdown_server.holds.rules.store import ModelStore

__all__ = ["BrokenRuleError", "CapDelta", "Event", "EventKind", "Line", "LineKind", "ModelStore", "SettledAmount"]
