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
    kind text NOT NULL CHECK (kind IN ('GRANT', 'STATE', 'VOID', 'EXPIRY', 'OVERDRAFT', 'CAP', 'CAP_REMOVAL')),
    target text NOT NULL,
    payload jsonb NOT NULL,
    reason text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    PRIMARY KEY (tenant_id, wallet_id, change_number)
);
COMMENT ON COLUMN wallet_changes.target IS
    'What it is about: the grant of GRANT, VOID and EXPIRY, the asset of OVERDRAFT, "subject|asset|WINDOW" of a cap; empty for STATE.';
COMMENT ON COLUMN wallet_changes.payload IS 'The change as the scripts take it, so that it is applied exactly as it was recorded.';

-- The newest change of a kind about one thing, without reading past the others.
CREATE INDEX wallet_changes_by_target ON wallet_changes (tenant_id, wallet_id, kind, target, change_number);

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
    void_time timestamptz,
    live boolean NOT NULL DEFAULT false,
    applied_expire_time timestamptz,
    applied_void boolean NOT NULL DEFAULT false,
    labels jsonb NOT NULL,
    change_number bigint NOT NULL,
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    PRIMARY KEY (tenant_id, wallet_id, grant_id),
    CHECK (remaining_units BETWEEN 0 AND units)
) WITH (fillfactor = 80);
COMMENT ON COLUMN grants.remaining_units IS
    'Units neither debited nor expired as of wallets.sequence; open holds are not in it. No index may name this column: the flusher updates it all the time.';
COMMENT ON COLUMN grants.effective_time IS 'Null = from its creation on.';
COMMENT ON COLUMN grants.expire_time IS 'Null = never. The newest wanted one.';
COMMENT ON COLUMN grants.void_time IS 'When an operator took it back. Null = never. The newest wanted one.';
COMMENT ON COLUMN grants.live IS
    'Its GRANT line is in the ledger. A grant that was applied and is not live is not effective yet.';
COMMENT ON COLUMN grants.applied_expire_time IS 'expire_time as of wallets.applied_change_number.';
COMMENT ON COLUMN grants.applied_void IS 'Whether it was void as of wallets.applied_change_number.';
COMMENT ON COLUMN grants.change_number IS 'The change that puts it in; above wallets.applied_change_number Valkey does not have it yet.';

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
    debt_units bigint NOT NULL DEFAULT 0 CHECK (debt_units BETWEEN -9007199254740991 AND 9007199254740991),
    overdraft_limit_units bigint NOT NULL DEFAULT 0 CHECK (overdraft_limit_units BETWEEN 0 AND 9007199254740991),
    PRIMARY KEY (tenant_id, wallet_id, asset),
    CHECK (settled_units = granted_units - debited_units - expired_units)
) WITH (fillfactor = 80);
COMMENT ON TABLE balances IS 'Sums of entries per wallet and asset as of wallets.sequence, kept by the flusher.';
COMMENT ON COLUMN balances.settled_units IS 'granted - debited - expired; below 0 = debt.';
COMMENT ON COLUMN balances.granted_units IS 'Put in over the wallet''s life: GRANT + ADJUST - VOID.';
COMMENT ON COLUMN balances.debited_units IS 'Used over the wallet''s life: DEBIT - REFUND.';
COMMENT ON COLUMN balances.debt_units IS
    'Debited without a grant to pay for it: settled = remaining of the live grants - debt. Below 0 = a credit that belongs to no grant.';
COMMENT ON COLUMN balances.overdraft_limit_units IS
    'As of wallets.applied_change_number; the newest wanted limit is in wallet_changes.';

-- Hard limits on spend: the newest wanted ones, and those as of wallets.applied_change_number, which a load needs.
CREATE TABLE caps (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    subject text NOT NULL,
    asset text NOT NULL,
    time_window text NOT NULL CHECK (time_window IN ('PER_REQUEST', 'MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH', 'LIFETIME')),
    limit_units bigint NOT NULL CHECK (limit_units BETWEEN 0 AND 9007199254740991),
    mode text NOT NULL CHECK (mode IN ('ENFORCE', 'OBSERVE')),
    change_number bigint NOT NULL,
    PRIMARY KEY (tenant_id, wallet_id, subject, asset, time_window)
);
COMMENT ON COLUMN caps.subject IS 'Empty = the whole wallet; an exact subject; or a prefix and *.';
COMMENT ON COLUMN caps.change_number IS 'The change that set it.';

CREATE TABLE applied_caps (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    subject text NOT NULL,
    asset text NOT NULL,
    time_window text NOT NULL CHECK (time_window IN ('PER_REQUEST', 'MINUTE', 'HOUR', 'DAY', 'WEEK', 'MONTH', 'LIFETIME')),
    limit_units bigint NOT NULL CHECK (limit_units BETWEEN 0 AND 9007199254740991),
    mode text NOT NULL CHECK (mode IN ('ENFORCE', 'OBSERVE')),
    change_number bigint NOT NULL,
    PRIMARY KEY (tenant_id, wallet_id, subject, asset, time_window)
);
COMMENT ON TABLE applied_caps IS 'The caps in force as of wallets.applied_change_number, kept by the flusher.';

-- Units debited per counter of a cap as of wallets.sequence, kept by the flusher; open holds are not in it.
CREATE TABLE cap_usage (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    counter text NOT NULL,
    units bigint NOT NULL,
    end_time timestamptz,
    PRIMARY KEY (tenant_id, wallet_id, counter)
) WITH (fillfactor = 80);
COMMENT ON COLUMN cap_usage.counter IS 'subject|asset|WINDOW|period, as the scripts name it.';
COMMENT ON COLUMN cap_usage.end_time IS 'When its window ends; what ended long ago is deleted. Null = never.';

CREATE INDEX cap_usage_by_end ON cap_usage (end_time);

-- The double-entry ledger: each row moves units from debit_account to credit_account, so every asset sums to zero by
-- construction. Append-only: no code path updates or deletes a row.
CREATE TABLE entries (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    wallet_sequence bigint NOT NULL CHECK (wallet_sequence >= 1),
    line integer NOT NULL CHECK (line >= 1),
    kind text NOT NULL CHECK (kind IN ('GRANT', 'DEBIT', 'EXPIRE', 'REFUND', 'VOID', 'ADJUST', 'REPAY')),
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
COMMENT ON COLUMN entries.hold_id IS 'The hold whose Commit, Refund or end this was; empty = none.';
COMMENT ON COLUMN entries.occurred_time IS 'When the live balance changed, by the clock of Valkey.';
COMMENT ON COLUMN entries.stream_id IS 'Where it came from: the id in the outbox of this partition and epoch.';

-- Every hold that was ever committed, as of its last event: what a Commit, Release or Refund that comes late is answered
-- from. A caller may use a hold id again once Valkey has forgotten it; each use is a row of its own, because its debit is
-- as real as the first.
CREATE TABLE settled_holds (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    hold_id text NOT NULL,
    create_time timestamptz NOT NULL,
    first_sequence bigint NOT NULL,
    wallet_sequence bigint NOT NULL,
    final boolean NOT NULL,
    late boolean NOT NULL,
    amounts jsonb NOT NULL,
    refunds jsonb NOT NULL,
    subjects text[] NOT NULL,
    labels jsonb NOT NULL,
    settle_time timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, wallet_id, hold_id, create_time)
) WITH (fillfactor = 90);
COMMENT ON COLUMN settled_holds.create_time IS 'When it was authorized; tells the uses of one id apart.';
COMMENT ON COLUMN settled_holds.first_sequence IS 'Its first COMMIT. Most holds have no other event; hold_events has the others.';
COMMENT ON COLUMN settled_holds.wallet_sequence IS 'Its last event.';
COMMENT ON COLUMN settled_holds.final IS 'False: only progress was committed so far.';
COMMENT ON COLUMN settled_holds.amounts IS
    'Array of {asset, authorized, debited, uncollected, refunded, debits, usage}: debits = what each grant paid and was not refunded, in order; usage = units per counter of a cap. What is 0 or empty is left out.';
COMMENT ON COLUMN settled_holds.refunds IS 'Array of [refund_id, digest of its amounts].';
COMMENT ON COLUMN settled_holds.late IS 'Committed after the hold had expired.';
COMMENT ON COLUMN settled_holds.settle_time IS 'Its last COMMIT.';

-- The events of a hold but its first COMMIT: progress, refunds, units given back to grants that are over. Finds the entries
-- of a hold without an index on entries, for which every debit would pay.
CREATE TABLE hold_events (
    tenant_id text NOT NULL,
    wallet_id text NOT NULL,
    hold_id text NOT NULL,
    wallet_sequence bigint NOT NULL,
    PRIMARY KEY (tenant_id, wallet_id, hold_id, wallet_sequence)
);

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
