-- The ledger's first schema.
--
-- Conventions. Every amount is an integer in the asset's smallest unit ("units"), within +-(2^53 - 1), because the
-- live balance is computed with doubles that are exact only up to there: 9007199254740991 below is that limit.
-- Lifetime totals (granted, debited, expired) are sums of many such amounts and only bounded by bigint.
-- Primary keys begin with tenant_id, so that the tables can be distributed by tenant. No foreign keys on the tables
-- that the flusher writes: it checks what it references itself, in bulk, and a violation becomes a dead letter.
-- Only SQL that Citus, CockroachDB and YugabyteDB also run: no triggers, no advisory locks, no deferrable constraints.

-- One row: what is fixed for the life of the installation.
CREATE TABLE installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    partition_count integer NOT NULL CHECK (partition_count BETWEEN 1 AND 1024),
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now())
);
COMMENT ON COLUMN installation.partition_count IS
    'Decides in which partition a wallet lives, hence never changes; a server configured otherwise is refused.';

CREATE TABLE assets (
    tenant_id text NOT NULL,
    asset text NOT NULL,
    scale smallint NOT NULL CHECK (scale BETWEEN 0 AND 12),
    display_name text NOT NULL,
    default_overage_policy text NOT NULL CHECK (default_overage_policy IN ('REJECT', 'CHARGE_AVAILABLE', 'CHARGE_FULL')),
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    PRIMARY KEY (tenant_id, asset)
);
COMMENT ON COLUMN assets.scale IS 'Decimal places: 1 whole = 10^scale units. Immutable, or every amount would change its meaning.';

CREATE TABLE wallets (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    partition integer NOT NULL CHECK (partition >= 0),
    state text NOT NULL DEFAULT 'ACTIVE' CHECK (state IN ('ACTIVE', 'FROZEN', 'CLOSED')),
    display_name text NOT NULL,
    labels jsonb NOT NULL,
    change_number bigint NOT NULL DEFAULT 0 CHECK (change_number >= 0),
    applied_change_number bigint NOT NULL DEFAULT 0,
    sequence bigint NOT NULL DEFAULT 0 CHECK (sequence >= 0),
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    update_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    PRIMARY KEY (tenant_id, wallet_id),
    CHECK (applied_change_number BETWEEN 0 AND change_number)
) WITH (fillfactor = 80);
COMMENT ON COLUMN wallets.state IS 'The newest wanted state. The state as of an applied change is in wallet_changes.';
COMMENT ON COLUMN wallets.change_number IS 'Number of the newest change in wallet_changes; +1 under the lock of this row.';
COMMENT ON COLUMN wallets.applied_change_number IS
    'The last change whose ledger event is recorded; behind change_number = changes still to be applied to the live balance.';
COMMENT ON COLUMN wallets.sequence IS 'wallet_sequence of the last recorded ledger event. Gapless: the next one recorded is +1.';
COMMENT ON COLUMN wallets.update_time IS 'Last change made by an administrator; usage does not touch it.';

-- Finds what a server must still apply; small, because a change is applied within milliseconds.
CREATE INDEX wallets_with_pending_changes ON wallets (update_time) WHERE change_number > applied_change_number;

-- Everything that an administrator changed about a wallet, numbered in the order in which it must be applied.
CREATE TABLE wallet_changes (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    change_number bigint NOT NULL CHECK (change_number >= 1),
    kind text NOT NULL CHECK (kind IN ('GRANT', 'STATE')),
    grant_id text NOT NULL DEFAULT '',
    state text NOT NULL DEFAULT '' CHECK (state IN ('', 'ACTIVE', 'FROZEN', 'CLOSED')),
    reason text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    PRIMARY KEY (tenant_id, wallet_id, change_number),
    CHECK ((kind = 'GRANT') = (grant_id <> '')),
    CHECK ((kind = 'STATE') = (state <> ''))
);
COMMENT ON COLUMN wallet_changes.grant_id IS 'The grant that a GRANT change puts in; empty for other kinds.';
COMMENT ON COLUMN wallet_changes.state IS 'The state that a STATE change leads to; empty for other kinds.';

-- The state of a wallet as of a change, without reading past its grants.
CREATE INDEX wallet_states ON wallet_changes (tenant_id, wallet_id, change_number) WHERE kind = 'STATE';

CREATE TABLE grants (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    grant_id text NOT NULL,
    asset text NOT NULL,
    units bigint NOT NULL CHECK (units BETWEEN 1 AND 9007199254740991),
    remaining_units bigint NOT NULL,
    priority integer NOT NULL,
    source text NOT NULL CHECK (source IN ('PURCHASE', 'PROMOTION', 'TOP_UP', 'REFUND', 'ADJUSTMENT')),
    effective_time timestamptz,
    expire_time timestamptz,
    labels jsonb NOT NULL,
    change_number bigint NOT NULL,
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    PRIMARY KEY (tenant_id, wallet_id, grant_id),
    CHECK (remaining_units BETWEEN 0 AND units)
) WITH (fillfactor = 80);
COMMENT ON COLUMN grants.remaining_units IS
    'Units neither debited nor expired as of wallets.sequence; open holds are not in it. No index may name this column: the flusher updates it all the time.';
COMMENT ON COLUMN grants.effective_time IS 'Null = from its creation on.';
COMMENT ON COLUMN grants.expire_time IS 'Null = never.';
COMMENT ON COLUMN grants.change_number IS 'The change that puts it in; above wallets.applied_change_number it is not in the balance yet.';

-- Pages of ListGrants: oldest first.
CREATE UNIQUE INDEX grants_in_order ON grants (tenant_id, wallet_id, change_number);

CREATE TABLE balances (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    asset text NOT NULL,
    settled_units bigint NOT NULL DEFAULT 0 CHECK (settled_units BETWEEN -9007199254740991 AND 9007199254740991),
    granted_units bigint NOT NULL DEFAULT 0 CHECK (granted_units >= 0),
    debited_units bigint NOT NULL DEFAULT 0 CHECK (debited_units >= 0),
    expired_units bigint NOT NULL DEFAULT 0 CHECK (expired_units >= 0),
    debt_units bigint NOT NULL DEFAULT 0 CHECK (debt_units BETWEEN 0 AND 9007199254740991),
    PRIMARY KEY (tenant_id, wallet_id, asset),
    CHECK (settled_units = granted_units - debited_units - expired_units)
) WITH (fillfactor = 80);
COMMENT ON TABLE balances IS 'Sums of entries per wallet and asset as of wallets.sequence, kept by the flusher.';
COMMENT ON COLUMN balances.settled_units IS 'granted - debited - expired; below 0 = debt.';
COMMENT ON COLUMN balances.granted_units IS 'Put in over the wallet''s life: GRANT + ADJUST - VOID.';
COMMENT ON COLUMN balances.debited_units IS 'Used over the wallet''s life: DEBIT - REFUND.';
COMMENT ON COLUMN balances.debt_units IS 'Debited without a grant to pay for it: settled = remaining of the applied grants - debt.';

-- The double-entry ledger: each row moves units from debit_account to credit_account, so every asset sums to zero by
-- construction. Append-only: no code path updates or deletes a row.
CREATE TABLE entries (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    wallet_sequence bigint NOT NULL CHECK (wallet_sequence >= 1),
    line integer NOT NULL CHECK (line >= 1),
    kind text NOT NULL CHECK (kind IN ('GRANT', 'DEBIT', 'EXPIRE', 'REFUND', 'VOID', 'ADJUST')),
    asset text NOT NULL,
    units bigint NOT NULL CHECK (units BETWEEN 1 AND 9007199254740991),
    debit_account text NOT NULL,
    credit_account text NOT NULL,
    grant_id text NOT NULL,
    hold_id text NOT NULL,
    subjects text[] NOT NULL,
    labels jsonb NOT NULL,
    occurred_time timestamptz NOT NULL,
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    stream_id text NOT NULL,
    PRIMARY KEY (tenant_id, wallet_id, wallet_sequence, line),
    CHECK (debit_account <> credit_account)
);
COMMENT ON COLUMN entries.wallet_sequence IS 'The event of the wallet. An event without lines (a Commit of zero) uses a number up and leaves no row here.';
COMMENT ON COLUMN entries.line IS 'Line within the event, from 1.';
COMMENT ON COLUMN entries.grant_id IS 'The grant that these units came from or went to; empty = the wallet''s debt.';
COMMENT ON COLUMN entries.hold_id IS 'The hold whose Commit this was; empty = none.';
COMMENT ON COLUMN entries.occurred_time IS 'When the live balance changed, by the clock of Valkey.';
COMMENT ON COLUMN entries.stream_id IS 'Where it came from: the id in the outbox of this partition and epoch.';

-- Every hold that was ever committed: what a Commit or Release that comes late is answered from. A caller may use a
-- hold id again once Valkey has forgotten it; each use is a row of its own, because its debit is as real as the first.
CREATE TABLE settled_holds (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    hold_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('COMMITTED')),
    wallet_sequence bigint NOT NULL,
    amounts jsonb NOT NULL,
    subjects text[] NOT NULL,
    labels jsonb NOT NULL,
    late boolean NOT NULL,
    create_time timestamptz NOT NULL,
    settle_time timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, wallet_id, hold_id, wallet_sequence)
);
COMMENT ON COLUMN settled_holds.amounts IS 'Array of {asset, authorized, debited, uncollected}, in units.';
COMMENT ON COLUMN settled_holds.late IS 'Committed after the hold had expired.';

-- How far each outbox is recorded, who may record it, and which generation of Valkey's state is in force.
CREATE TABLE partitions (
    partition integer PRIMARY KEY CHECK (partition >= 0),
    epoch bigint NOT NULL DEFAULT 1 CHECK (epoch >= 1),
    opened boolean NOT NULL DEFAULT false,
    position text NOT NULL DEFAULT '0-0',
    left_epoch bigint NOT NULL DEFAULT 0,
    left_position text NOT NULL DEFAULT '0-0',
    lease_owner text NOT NULL DEFAULT '',
    lease_token bigint NOT NULL DEFAULT 0,
    lease_expire_time timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON COLUMN partitions.epoch IS 'Generation of this partition''s state in Valkey, part of its key names. Only grows.';
COMMENT ON COLUMN partitions.opened IS
    'Valkey has had the meta key of this epoch: when it is missing there now, Valkey lost its state.';
COMMENT ON COLUMN partitions.position IS 'Stream id of the last event of this epoch that is recorded. 0-0 = none yet.';
COMMENT ON COLUMN partitions.left_epoch IS
    'The epoch that was left behind and whose unrecorded events must still be copied to dead_letters. 0 = none.';
COMMENT ON COLUMN partitions.left_position IS 'The position in the outbox of left_epoch.';
COMMENT ON COLUMN partitions.lease_token IS
    'Grows with every new owner. A flusher records only while the token is still the one it was given.';

-- Events that could not be recorded. Money that moved in Valkey and is not in the ledger: each row needs a person.
CREATE TABLE dead_letters (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    stream_id text NOT NULL,
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    wallet_sequence bigint NOT NULL,
    raw bytea NOT NULL,
    error text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    PRIMARY KEY (partition, epoch, stream_id)
);
COMMENT ON COLUMN dead_letters.tenant_id IS 'As the event says; empty when it cannot be decoded (also wallet_id; wallet_sequence is 0 then).';
COMMENT ON COLUMN dead_letters.raw IS 'The event as it was in the outbox.';

CREATE INDEX dead_letters_by_wallet ON dead_letters (tenant_id, wallet_id);
