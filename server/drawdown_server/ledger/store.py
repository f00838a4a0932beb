"""Everything the server asks of Postgres: one typed function per question.

    wallets.py     assets, wallets, overdraft limits, the load into Valkey
    changes.py     the numbered changes of a wallet
    closings.py    closing a wallet: what was begun, and undoing it
    grants.py      funds put in
    caps.py        limits on spend
    audit.py       what administrators did
    entries.py     entries, settled holds, dead letters (reading)
    partitions.py  positions, leases, epochs
    api_keys.py    who may call
    servers.py     who serves from which Valkey
    recording.py   the flush transaction: the only writer of entries

``errors.StoreUnavailableError("postgres")`` means the same call may be made again; ``database.py`` decides that for
all of them.
"""

from __future__ import annotations

from drawdown_server.ledger.api_keys import ApiKeyStore
from drawdown_server.ledger.audit import AuditStore
from drawdown_server.ledger.caps import CapStore
from drawdown_server.ledger.changes import ChangeStore
from drawdown_server.ledger.closings import ClosingStore
from drawdown_server.ledger.entries import EntryStore
from drawdown_server.ledger.grants import GrantStore
from drawdown_server.ledger.partitions import PartitionStore
from drawdown_server.ledger.recording import RecordingStore
from drawdown_server.ledger.servers import ServerStore
from drawdown_server.ledger.wallets import WalletStore


class LedgerStore(
    WalletStore,
    ChangeStore,
    ClosingStore,
    GrantStore,
    CapStore,
    AuditStore,
    EntryStore,
    PartitionStore,
    ServerStore,
    ApiKeyStore,
    RecordingStore,
):
    """The ledger in Postgres, over one pool."""
