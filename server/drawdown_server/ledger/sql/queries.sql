-- Every query of the server; queries.py loads the blocks by name. Columns are always listed, parameters are $1, $2, ...
-- Pages are keyset pages: "after" is the last key of the page before.

-- migrations_table --
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_time timestamptz NOT NULL DEFAULT now()
)

-- migrations_table_exists --
SELECT count(*) FROM information_schema.tables
WHERE table_schema = current_schema() AND table_name = 'schema_migrations'

-- migrations_applied --
SELECT version, name, checksum FROM schema_migrations ORDER BY version

-- migration_claim --
INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)

-- migrations_lock --
SELECT version FROM schema_migrations WHERE version = 1 FOR UPDATE

-- role_exists --
SELECT count(*) FROM pg_roles WHERE rolname = $1

-- asset_create --
INSERT INTO assets (tenant_id, asset, scale, display_name, default_overage_policy)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, asset) DO NOTHING
RETURNING tenant_id, asset, scale, display_name, default_overage_policy, create_time

-- asset_get --
SELECT tenant_id, asset, scale, display_name, default_overage_policy, create_time
FROM assets WHERE tenant_id = $1 AND asset = $2

-- asset_list --
SELECT tenant_id, asset, scale, display_name, default_overage_policy, create_time
FROM assets WHERE tenant_id = $1 AND asset > $2
ORDER BY asset LIMIT $3

-- wallet_create --
INSERT INTO wallets (tenant_id, wallet_id, partition, display_name, labels)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, wallet_id) DO NOTHING
RETURNING tenant_id, wallet_id, partition, state, display_name, labels, change_number, applied_change_number, sequence,
    create_time, update_time

-- wallet_get --
SELECT tenant_id, wallet_id, partition, state, display_name, labels, change_number, applied_change_number, sequence,
    create_time, update_time
FROM wallets WHERE tenant_id = $1 AND wallet_id = $2

-- wallet_lock --
SELECT tenant_id, wallet_id, partition, state, display_name, labels, change_number, applied_change_number, sequence,
    create_time, update_time
FROM wallets WHERE tenant_id = $1 AND wallet_id = $2
FOR UPDATE

-- wallets_recorded --
SELECT w.tenant_id, w.wallet_id, w.sequence, w.applied_change_number, w.change_number
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN wallets w ON w.tenant_id = f.tenant_id AND w.wallet_id = f.wallet_id

-- wallet_list --
SELECT tenant_id, wallet_id, partition, state, display_name, labels, change_number, applied_change_number, sequence,
    create_time, update_time
FROM wallets WHERE tenant_id = $1 AND wallet_id > $2
ORDER BY wallet_id LIMIT $3

-- wallet_list_all --
-- Of every tenant, or of one.
SELECT tenant_id, wallet_id, partition FROM wallets
WHERE (tenant_id, wallet_id) > ($1, $2) AND ($3::text = '' OR tenant_id = $3)
ORDER BY tenant_id, wallet_id LIMIT $4

-- wallet_count --
SELECT count(*) FROM wallets WHERE $1::text = '' OR tenant_id = $1

-- snapshot_wallets --
-- The snapshot_ queries read several wallets at once: what a load takes.
SELECT w.tenant_id, w.wallet_id, w.partition, w.state, w.display_name, w.labels, w.change_number,
    w.applied_change_number, w.sequence, w.create_time, w.update_time
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN wallets w ON w.tenant_id = f.tenant_id AND w.wallet_id = f.wallet_id

-- snapshot_states --
-- The newest applied change of state of each.
SELECT DISTINCT ON (c.tenant_id, c.wallet_id)
    c.tenant_id, c.wallet_id, c.change_number, c.payload, c.reason, c.create_time
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN wallets w ON w.tenant_id = f.tenant_id AND w.wallet_id = f.wallet_id
JOIN wallet_changes c ON c.tenant_id = f.tenant_id AND c.wallet_id = f.wallet_id AND c.kind = 'STATE' AND c.target = ''
    AND c.change_number <= w.applied_change_number
ORDER BY c.tenant_id, c.wallet_id, c.change_number DESC

-- snapshot_caps --
SELECT c.tenant_id, c.wallet_id, c.subject, c.asset, c.time_window, c.limit_units, c.mode
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN applied_caps c ON c.tenant_id = f.tenant_id AND c.wallet_id = f.wallet_id
ORDER BY c.change_number

-- snapshot_cap_usage --
-- The minute is for clocks that differ: a counter whose window has ended does no harm.
SELECT u.tenant_id, u.wallet_id, u.counter, u.units
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN cap_usage u ON u.tenant_id = f.tenant_id AND u.wallet_id = f.wallet_id
WHERE u.end_time IS NULL OR u.end_time > now() - interval '1 minute'
ORDER BY u.counter

-- snapshot_balances --
SELECT b.tenant_id, b.wallet_id, b.asset, b.settled_units, b.granted_units, b.debited_units, b.expired_units,
    b.debt_units, b.overdraft_limit_units
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN balances b ON b.tenant_id = f.tenant_id AND b.wallet_id = f.wallet_id
ORDER BY b.asset

-- snapshot_grants --
SELECT g.tenant_id, g.wallet_id, g.grant_id, g.asset, g.units, g.remaining_units, g.priority, g.source,
    g.effective_time, g.expire_time, g.void_time, g.live, g.applied_expire_time, g.applied_void, g.labels,
    g.change_number, g.create_time
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN grants g ON g.tenant_id = f.tenant_id AND g.wallet_id = f.wallet_id
WHERE g.remaining_units > 0
ORDER BY g.change_number

-- snapshot_changes --
-- Those that are not applied yet, the first $3 of each: change numbers have no gaps.
SELECT c.tenant_id, c.wallet_id, c.change_number, c.payload, c.reason, c.create_time
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN wallets w ON w.tenant_id = f.tenant_id AND w.wallet_id = f.wallet_id
JOIN wallet_changes c ON c.tenant_id = f.tenant_id AND c.wallet_id = f.wallet_id
    AND c.change_number > w.applied_change_number AND c.change_number <= w.applied_change_number + $3
ORDER BY c.change_number

-- wallet_change --
-- Under wallet_lock: takes the next change number; a state of '' stays as it is.
UPDATE wallets
SET change_number = change_number + 1,
    state = CASE WHEN $3::text = '' THEN state ELSE $3::text END,
    update_time = date_trunc('milliseconds', now())
WHERE tenant_id = $1 AND wallet_id = $2
RETURNING tenant_id, wallet_id, partition, state, display_name, labels, change_number, applied_change_number, sequence,
    create_time, update_time

-- closing_begin --
-- Under wallet_lock.
INSERT INTO wallet_closings (tenant_id, wallet_id) VALUES ($1, $2)
ON CONFLICT (tenant_id, wallet_id) DO UPDATE SET begin_time = now()

-- closing_exists --
SELECT count(*) FROM wallet_closings WHERE tenant_id = $1 AND wallet_id = $2

-- closing_end --
DELETE FROM wallet_closings WHERE tenant_id = $1 AND wallet_id = $2

-- closings_abandoned --
SELECT tenant_id, wallet_id FROM wallet_closings
WHERE begin_time < now() - make_interval(secs => $1::float8)
ORDER BY begin_time LIMIT $2

-- change_create --
INSERT INTO wallet_changes (tenant_id, wallet_id, change_number, kind, target, payload, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- change_get --
SELECT change_number, payload, reason, create_time
FROM wallet_changes WHERE tenant_id = $1 AND wallet_id = $2 AND change_number = $3

-- change_list --
SELECT change_number, payload, reason, create_time
FROM wallet_changes WHERE tenant_id = $1 AND wallet_id = $2 AND change_number > $3
ORDER BY change_number LIMIT $4

-- change_latest --
-- The newest change of a kind about one thing, up to a number.
SELECT change_number, payload, reason, create_time
FROM wallet_changes WHERE tenant_id = $1 AND wallet_id = $2 AND kind = $3 AND target = $4 AND change_number <= $5
ORDER BY change_number DESC LIMIT 1

-- wallets_with_pending_changes --
SELECT tenant_id, wallet_id FROM wallets
WHERE change_number > applied_change_number AND update_time < now() - make_interval(secs => $1::float8)
    AND partition = ANY ($3::integer[])
ORDER BY update_time LIMIT $2 OFFSET $4

-- grant_get --
SELECT tenant_id, wallet_id, grant_id, asset, units, remaining_units, priority, source, effective_time, expire_time,
    void_time, live, applied_expire_time, applied_void, labels, change_number, create_time
FROM grants WHERE tenant_id = $1 AND wallet_id = $2 AND grant_id = $3

-- grant_create --
INSERT INTO grants (tenant_id, wallet_id, grant_id, asset, units, remaining_units, priority, source, effective_time,
    expire_time, applied_expire_time, labels, change_number)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9, $9, $10, $11)
RETURNING tenant_id, wallet_id, grant_id, asset, units, remaining_units, priority, source, effective_time, expire_time,
    void_time, live, applied_expire_time, applied_void, labels, change_number, create_time

-- grant_void --
UPDATE grants SET void_time = date_trunc('milliseconds', now())
WHERE tenant_id = $1 AND wallet_id = $2 AND grant_id = $3
RETURNING tenant_id, wallet_id, grant_id, asset, units, remaining_units, priority, source, effective_time, expire_time,
    void_time, live, applied_expire_time, applied_void, labels, change_number, create_time

-- grant_set_expiry --
UPDATE grants SET expire_time = $4
WHERE tenant_id = $1 AND wallet_id = $2 AND grant_id = $3
RETURNING tenant_id, wallet_id, grant_id, asset, units, remaining_units, priority, source, effective_time, expire_time,
    void_time, live, applied_expire_time, applied_void, labels, change_number, create_time

-- grants_by_id --
SELECT tenant_id, wallet_id, grant_id, asset, units, remaining_units, priority, source, effective_time, expire_time,
    void_time, live, applied_expire_time, applied_void, labels, change_number, create_time
FROM grants WHERE tenant_id = $1 AND wallet_id = $2 AND grant_id = ANY($3::text[])
ORDER BY change_number

-- grant_limits --
-- Under wallet_lock. What is debited and not yet recorded still counts as remaining, which errs on the safe side.
SELECT count(*) AS grants, coalesce(sum(remaining_units), 0)::bigint AS units
FROM grants WHERE tenant_id = $1 AND wallet_id = $2 AND asset = $3 AND remaining_units > 0

-- grant_list --
SELECT tenant_id, wallet_id, grant_id, asset, units, remaining_units, priority, source, effective_time, expire_time,
    void_time, live, applied_expire_time, applied_void, labels, change_number, create_time
FROM grants
WHERE tenant_id = $1 AND wallet_id = $2 AND ($3::text = '' OR asset = $3) AND change_number > $4
ORDER BY change_number LIMIT $5

-- grant_list_unspent --
SELECT tenant_id, wallet_id, grant_id, asset, units, remaining_units, priority, source, effective_time, expire_time,
    void_time, live, applied_expire_time, applied_void, labels, change_number, create_time
FROM grants WHERE tenant_id = $1 AND wallet_id = $2 AND remaining_units > 0
ORDER BY change_number

-- grants_expiring --
-- One page of grants by the time at which they expire, all of them. is_due: what is left should be in the ledger as an
-- EXPIRE line by now, and is not.
SELECT tenant_id, wallet_id, grant_id, applied_expire_time AS due_time, remaining_units > 0 AS is_due
FROM grants
WHERE (applied_expire_time, tenant_id, wallet_id, grant_id) > ($1, $2, $3, $4) AND applied_expire_time <= $5
ORDER BY applied_expire_time, tenant_id, wallet_id, grant_id LIMIT $6

-- grants_starting --
-- One page of scheduled grants by the time at which they become effective, all of them. is_due: its GRANT line should be
-- in the ledger by now, and is not.
SELECT tenant_id, wallet_id, grant_id, effective_time AS due_time, NOT live AND remaining_units > 0 AS is_due
FROM grants
WHERE (effective_time, tenant_id, wallet_id, grant_id) > ($1, $2, $3, $4) AND effective_time <= $5
ORDER BY effective_time, tenant_id, wallet_id, grant_id LIMIT $6

-- cap_list --
SELECT subject, asset, time_window, limit_units, mode
FROM caps WHERE tenant_id = $1 AND wallet_id = $2

-- cap_set --
INSERT INTO caps (tenant_id, wallet_id, subject, asset, time_window, limit_units, mode, change_number)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, wallet_id, subject, asset, time_window) DO UPDATE
SET limit_units = EXCLUDED.limit_units, mode = EXCLUDED.mode, change_number = EXCLUDED.change_number

-- cap_remove --
DELETE FROM caps
WHERE tenant_id = $1 AND wallet_id = $2 AND subject = $3 AND asset = $4 AND time_window = $5

-- cap_usage_forget --
DELETE FROM cap_usage
WHERE (tenant_id, wallet_id, counter) IN (
    SELECT u.tenant_id, u.wallet_id, u.counter FROM cap_usage u
    WHERE u.end_time < now() - make_interval(secs => $1::float8)
    ORDER BY u.end_time LIMIT $2)

-- settled_hold_get --
-- The latest use of the id.
SELECT tenant_id, wallet_id, hold_id, final, wallet_sequence, amounts, refunds, subjects, labels, late, create_time,
    settle_time
FROM settled_holds WHERE tenant_id = $1 AND wallet_id = $2 AND hold_id = $3
ORDER BY create_time DESC LIMIT 1

-- hold_events_find --
-- Whether events of holds are recorded, and whether their wallets are past them: then they are now or never.
SELECT coalesce(w.sequence >= e.wallet_sequence, false) AS passed,
    EXISTS (
        SELECT 1 FROM settled_holds s
        WHERE s.tenant_id = e.tenant_id AND s.wallet_id = e.wallet_id AND s.hold_id = e.hold_id
            AND s.first_sequence = e.wallet_sequence)
    OR EXISTS (
        SELECT 1 FROM hold_events h
        WHERE h.tenant_id = e.tenant_id AND h.wallet_id = e.wallet_id AND h.hold_id = e.hold_id
            AND h.wallet_sequence = e.wallet_sequence) AS recorded
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY
    AS e (tenant_id, wallet_id, hold_id, wallet_sequence, place)
LEFT JOIN wallets w ON w.tenant_id = e.tenant_id AND w.wallet_id = e.wallet_id
ORDER BY e.place

-- event_epoch --
SELECT epoch FROM entries WHERE tenant_id = $1 AND wallet_id = $2 AND wallet_sequence = $3 LIMIT 1

-- entry_list --
-- A hold's entries are found through its events: entries has no index by hold, for which every debit would pay.
SELECT tenant_id, wallet_id, wallet_sequence, line, kind, asset, units, debit_account, credit_account, grant_id,
    hold_id, subjects, labels, occurred_time
FROM entries
WHERE tenant_id = $1 AND wallet_id = $2 AND (wallet_sequence, line) > ($5, $6)
    AND ($3::text = '' OR asset = $3)
    AND ($4::text = '' OR wallet_sequence IN (
        SELECT s.first_sequence FROM settled_holds s WHERE s.tenant_id = $1 AND s.wallet_id = $2 AND s.hold_id = $4
        UNION ALL
        SELECT h.wallet_sequence FROM hold_events h WHERE h.tenant_id = $1 AND h.wallet_id = $2 AND h.hold_id = $4))
ORDER BY wallet_sequence, line LIMIT $7

-- entry_sums --
-- Recomputes a wallet's balances from its entries; $3 is the wallet's account, $4 that of its debt.
SELECT asset, grant_id,
    sum(CASE WHEN credit_account = $3 THEN units ELSE 0 END)::bigint AS credited_units,
    sum(CASE WHEN debit_account = $3 THEN units ELSE 0 END)::bigint AS debited_units,
    sum(CASE WHEN credit_account = $4 THEN units ELSE 0 END)::bigint AS debt_credited_units,
    sum(CASE WHEN debit_account = $4 THEN units ELSE 0 END)::bigint AS debt_debited_units
FROM entries WHERE tenant_id = $1 AND wallet_id = $2
GROUP BY asset, grant_id

-- installation_create --
INSERT INTO installation (partition_count) VALUES ($1) ON CONFLICT (singleton) DO NOTHING

-- installation_get --
SELECT partition_count FROM installation

-- partitions_create --
INSERT INTO partitions (partition) SELECT generate_series(0, $1::integer - 1) ON CONFLICT (partition) DO NOTHING

-- partitions_list --
SELECT partition, epoch, opened, position, left_epoch, left_position FROM partitions ORDER BY partition

-- leases_list --
SELECT partition, lease_owner, extract(epoch FROM lease_expire_time - now())::float8 AS lease_s FROM partitions
WHERE lease_owner <> '' AND lease_expire_time > now()
ORDER BY partition

-- partition_get --
SELECT partition, epoch, opened, position, left_epoch, left_position FROM partitions WHERE partition = $1

-- partition_bump_epoch --
-- The keys of epochs before it are looked for again: they may have been swept on another Valkey than the one from now on.
WITH bumped AS (
    UPDATE partitions
    SET epoch = epoch + 1, opened = false, position = '0-0', left_epoch = epoch, left_position = position
    WHERE partition = $1 AND epoch = $2 AND left_epoch = 0
    RETURNING partition, epoch, left_epoch, left_position
), kept AS (
    INSERT INTO left_epochs (partition, epoch, position) SELECT partition, left_epoch, left_position FROM bumped
), unswept AS (
    UPDATE left_epochs SET swept = false FROM bumped WHERE left_epochs.partition = bumped.partition
)
SELECT epoch FROM bumped

-- partition_salvaged --
UPDATE partitions SET left_epoch = 0, left_position = '0-0' WHERE partition = $1 AND left_epoch = $2

-- left_epochs_list --
-- Those whose events are safe and whose keys are still to be deleted.
SELECT l.partition, l.epoch, l.position
FROM left_epochs l
JOIN partitions p ON p.partition = l.partition
WHERE NOT l.swept AND p.left_epoch = 0 AND l.epoch < p.epoch
ORDER BY l.partition, l.epoch

-- left_epochs_swept --
UPDATE left_epochs SET swept = true
FROM unnest($1::integer[], $2::bigint[]) AS s (partition, epoch)
WHERE left_epochs.partition = s.partition AND left_epochs.epoch = s.epoch

-- installation_lock --
SELECT partition_count FROM installation FOR UPDATE

-- server_elsewhere --
-- Somebody who serves from another Valkey, or from a node that is not among these ($2, with + between them).
SELECT server_id FROM servers
WHERE server_id <> $1 AND NOT string_to_array(run_id, '+') <@ string_to_array($2, '+') AND expire_time > now()
ORDER BY server_id LIMIT 1

-- server_set --
INSERT INTO servers (server_id, run_id, expire_time) VALUES ($1, $2, now() + make_interval(secs => $3::float8))
ON CONFLICT (server_id) DO UPDATE SET run_id = EXCLUDED.run_id, expire_time = EXCLUDED.expire_time

-- server_renew --
-- All of what was claimed, or a part of it ($2): of a cluster, nodes that no longer answer are given up.
UPDATE servers SET run_id = $2, expire_time = now() + make_interval(secs => $3::float8)
WHERE server_id = $1 AND string_to_array($2, '+') <@ string_to_array(run_id, '+') AND expire_time > now()

-- server_remove --
DELETE FROM servers WHERE server_id = $1

-- servers_forget --
DELETE FROM servers WHERE expire_time < now() - interval '1 hour'

-- servers_list --
SELECT server_id, run_id, extract(epoch FROM expire_time - now())::float8 AS claim_s FROM servers
WHERE expire_time > now()
ORDER BY server_id

-- partitions_mark_opened --
UPDATE partitions SET opened = true
FROM unnest($1::integer[], $2::bigint[]) AS o (partition, epoch)
WHERE partitions.partition = o.partition AND partitions.epoch = o.epoch AND NOT partitions.opened

-- lease --
-- Renews what this owner has and takes what is free: nobody's, or silent past its time. A new owner gets a new token.
-- Who reads another Valkey than the one that is served ($3; '' = not known) gets nothing, and loses what it has.
UPDATE partitions
SET lease_token = CASE WHEN lease_owner = $1 THEN lease_token ELSE lease_token + 1 END,
    lease_owner = $1,
    lease_expire_time = now() + make_interval(secs => $2::float8)
WHERE (lease_owner = $1 OR lease_owner = '' OR lease_expire_time < now()) AND NOT partition = ANY ($4::integer[])
    AND ($3::text = '' OR NOT EXISTS (
        SELECT 1 FROM servers s
        WHERE NOT string_to_array(s.run_id, '+') <@ string_to_array($3, '+') AND s.expire_time > now()
    ))
RETURNING partition, epoch, position, lease_token

-- flush_end_stuck --
-- Ends the connections of transactions that keep others from the partitions and are older than any statement of theirs
-- may be. No timeout of Postgres does: it waits for the data of a COPY as long as the client is connected, although that
-- may be a process, or a machine, that was stopped in the middle of it.
SELECT pg_terminate_backend(activity.pid)
FROM pg_stat_activity activity
JOIN pg_locks held ON held.pid = activity.pid
WHERE held.relation = 'partitions'::regclass AND held.granted AND held.mode = 'RowExclusiveLock'
    AND activity.usename = current_user
    AND activity.xact_start < now() - 2 * current_setting('statement_timeout')::interval

-- flushers_fence --
-- Owners stay, and get their new tokens with the next renewal.
UPDATE partitions SET lease_token = lease_token + 1 WHERE lease_owner <> ''

-- lease_release --
UPDATE partitions SET lease_owner = '', lease_expire_time = now()
WHERE lease_owner = $1 AND ($2::integer[] IS NULL OR partition = ANY ($2))

-- flush_fence --
-- Moves the positions, and only where this flusher still owns the partition and nobody moved it meanwhile.
UPDATE partitions SET position = f.position_to
FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::text[], $5::text[])
    AS f (partition, epoch, lease_token, position_from, position_to)
WHERE partitions.partition = f.partition AND partitions.epoch = f.epoch AND partitions.lease_token = f.lease_token
    AND partitions.position = f.position_from
RETURNING partitions.partition

-- flush_wallets_lock --
SELECT w.tenant_id, w.wallet_id, w.partition, w.change_number, w.applied_change_number, w.sequence
FROM unnest($1::text[], $2::text[]) AS f (tenant_id, wallet_id)
JOIN wallets w ON w.tenant_id = f.tenant_id AND w.wallet_id = f.wallet_id
FOR UPDATE OF w

-- flush_grants --
SELECT g.tenant_id, g.wallet_id, g.grant_id, g.asset, g.units, g.source, g.change_number, g.live
FROM unnest($1::text[], $2::text[], $3::text[]) AS f (tenant_id, wallet_id, grant_id)
JOIN grants g ON g.tenant_id = f.tenant_id AND g.wallet_id = f.wallet_id AND g.grant_id = f.grant_id

-- flush_changes --
SELECT c.tenant_id, c.wallet_id, c.change_number, c.payload
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS f (tenant_id, wallet_id, change_number)
JOIN wallet_changes c
    ON c.tenant_id = f.tenant_id AND c.wallet_id = f.wallet_id AND c.change_number = f.change_number

-- flush_holds --
SELECT h.tenant_id, h.wallet_id, h.hold_id, h.create_time, h.first_sequence, h.final, h.late, h.amounts, h.refunds,
    h.settle_time
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS f (tenant_id, wallet_id, hold_id, create_time)
JOIN settled_holds h ON h.tenant_id = f.tenant_id AND h.wallet_id = f.wallet_id AND h.hold_id = f.hold_id
    AND h.create_time = f.create_time

-- flush_holds_change --
UPDATE settled_holds
SET wallet_sequence = f.wallet_sequence, final = f.final, late = f.late, amounts = f.amounts::jsonb,
    refunds = f.refunds::jsonb, settle_time = f.settle_time
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::boolean[], $7::boolean[],
    $8::text[], $9::text[], $10::timestamptz[])
    AS f (tenant_id, wallet_id, hold_id, create_time, wallet_sequence, final, late, amounts, refunds, settle_time)
WHERE settled_holds.tenant_id = f.tenant_id AND settled_holds.wallet_id = f.wallet_id
    AND settled_holds.hold_id = f.hold_id AND settled_holds.create_time = f.create_time

-- flush_wallets --
UPDATE wallets SET sequence = f.sequence, applied_change_number = f.applied_change_number
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
    AS f (tenant_id, wallet_id, sequence, applied_change_number)
WHERE wallets.tenant_id = f.tenant_id AND wallets.wallet_id = f.wallet_id

-- flush_balances_create --
INSERT INTO balances (tenant_id, wallet_id, asset)
SELECT f.tenant_id, f.wallet_id, f.asset FROM unnest($1::text[], $2::text[], $3::text[]) AS f (tenant_id, wallet_id, asset)
ON CONFLICT (tenant_id, wallet_id, asset) DO NOTHING
RETURNING tenant_id, wallet_id, asset

-- flush_balances --
UPDATE balances
SET settled_units = settled_units + f.granted - f.debited - f.expired,
    granted_units = granted_units + f.granted,
    debited_units = debited_units + f.debited,
    expired_units = expired_units + f.expired,
    debt_units = debt_units + f.debt,
    overdraft_limit_units = coalesce(f.overdraft_limit, overdraft_limit_units)
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
    AS f (tenant_id, wallet_id, asset, granted, debited, expired, debt, overdraft_limit)
WHERE balances.tenant_id = f.tenant_id AND balances.wallet_id = f.wallet_id AND balances.asset = f.asset

-- flush_grants_remaining --
UPDATE grants SET remaining_units = grants.remaining_units + f.units
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
    AS f (tenant_id, wallet_id, grant_id, asset, units)
WHERE grants.tenant_id = f.tenant_id AND grants.wallet_id = f.wallet_id AND grants.grant_id = f.grant_id
    AND grants.asset = f.asset

-- flush_grant_lives --
-- After the units: a grant that is taken back before it became effective never is; it has nothing.
UPDATE grants
SET live = grants.live OR f.live,
    applied_void = grants.applied_void OR f.void,
    remaining_units = CASE WHEN f.void AND NOT grants.live AND NOT f.live THEN 0 ELSE grants.remaining_units END,
    applied_expire_time = CASE WHEN f.expiry_changed THEN f.expire_time ELSE grants.applied_expire_time END
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::boolean[], $6::boolean[], $7::timestamptz[])
    AS f (tenant_id, wallet_id, grant_id, live, void, expiry_changed, expire_time)
WHERE grants.tenant_id = f.tenant_id AND grants.wallet_id = f.wallet_id AND grants.grant_id = f.grant_id

-- flush_caps_remove --
DELETE FROM applied_caps
USING unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS f (tenant_id, wallet_id, subject, asset, time_window)
WHERE applied_caps.tenant_id = f.tenant_id AND applied_caps.wallet_id = f.wallet_id
    AND applied_caps.subject = f.subject AND applied_caps.asset = f.asset AND applied_caps.time_window = f.time_window

-- flush_caps_set --
INSERT INTO applied_caps (tenant_id, wallet_id, subject, asset, time_window, limit_units, mode, change_number)
SELECT f.tenant_id, f.wallet_id, f.subject, f.asset, f.time_window, f.limit_units, f.mode, f.change_number
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::bigint[])
    AS f (tenant_id, wallet_id, subject, asset, time_window, limit_units, mode, change_number)
ON CONFLICT (tenant_id, wallet_id, subject, asset, time_window) DO UPDATE
SET limit_units = EXCLUDED.limit_units, mode = EXCLUDED.mode, change_number = EXCLUDED.change_number

-- flush_cap_usage --
INSERT INTO cap_usage (tenant_id, wallet_id, counter, units, end_time)
SELECT f.tenant_id, f.wallet_id, f.counter, f.units, f.end_time
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[])
    AS f (tenant_id, wallet_id, counter, units, end_time)
ON CONFLICT (tenant_id, wallet_id, counter) DO UPDATE SET units = cap_usage.units + EXCLUDED.units

-- dead_letters_create --
INSERT INTO dead_letters (partition, epoch, stream_id, tenant_id, wallet_id, wallet_sequence, raw, error)
SELECT f.partition, f.epoch, f.stream_id, f.tenant_id, f.wallet_id, f.wallet_sequence, f.raw, f.error
FROM unnest($1::integer[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bytea[], $8::text[])
    AS f (partition, epoch, stream_id, tenant_id, wallet_id, wallet_sequence, raw, error)
ON CONFLICT (partition, epoch, stream_id) DO NOTHING

-- dead_letter_list --
SELECT partition, epoch, stream_id, tenant_id, wallet_id, wallet_sequence, raw, error
FROM dead_letters WHERE (partition, epoch, stream_id) > ($1, $2, $3)
ORDER BY partition, epoch, stream_id LIMIT $4

-- dead_letter_list_of_hold --
-- Those that mention the hold's id; the caller decodes them. Most wallets have none at all.
SELECT epoch, raw FROM dead_letters
WHERE tenant_id = $1 AND wallet_id = $2 AND position($3::bytea IN raw) > 0

-- dead_letter_list_of_wallet --
SELECT partition, epoch, stream_id, tenant_id, wallet_id, wallet_sequence, raw, error
FROM dead_letters WHERE tenant_id = $1 AND wallet_id = $2
ORDER BY partition, epoch, stream_id LIMIT $3

-- dead_letters_count --
SELECT count(*) FROM dead_letters

-- api_key_create --
INSERT INTO api_keys (tenant_id, key_id, display_name, scopes, expire_time)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, key_id) DO NOTHING
RETURNING key_id

-- api_key_lock --
SELECT revoke_time IS NOT NULL OR coalesce(expire_time <= now(), false) AS ended
FROM api_keys WHERE tenant_id = $1 AND key_id = $2
FOR UPDATE

-- api_key_changed --
UPDATE api_keys SET revision = revision + 1 WHERE tenant_id = $1 AND key_id = $2

-- api_key_revoke --
UPDATE api_keys SET revision = revision + 1, revoke_time = date_trunc('milliseconds', now())
WHERE tenant_id = $1 AND key_id = $2 AND revoke_time IS NULL

-- api_key_get --
-- A row per secret that has not ended.
SELECT k.tenant_id, k.key_id, k.display_name, k.scopes, k.create_time, k.expire_time, k.revoke_time,
    s.secret_id, s.pepper_id, s.create_time AS secret_create_time, s.expire_time AS secret_expire_time
FROM api_keys k
LEFT JOIN api_key_secrets s ON s.tenant_id = k.tenant_id AND s.key_id = k.key_id
    AND (s.expire_time IS NULL OR s.expire_time > now())
WHERE k.tenant_id = $1 AND k.key_id = $2
ORDER BY s.create_time, s.rotation_id

-- api_key_list --
SELECT k.tenant_id, k.key_id, k.display_name, k.scopes, k.create_time, k.expire_time, k.revoke_time,
    s.secret_id, s.pepper_id, s.create_time AS secret_create_time, s.expire_time AS secret_expire_time
FROM (
    SELECT tenant_id, key_id, display_name, scopes, create_time, expire_time, revoke_time
    FROM api_keys WHERE tenant_id = $1 AND key_id > $2
    ORDER BY key_id LIMIT $3
) k
LEFT JOIN api_key_secrets s ON s.tenant_id = k.tenant_id AND s.key_id = k.key_id
    AND (s.expire_time IS NULL OR s.expire_time > now())
ORDER BY k.key_id, s.create_time, s.rotation_id

-- api_key_secret_create --
INSERT INTO api_key_secrets (tenant_id, key_id, rotation_id, secret_id, pepper_id, digest, overlap_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- api_key_rotation_get --
SELECT overlap_ms FROM api_key_secrets WHERE tenant_id = $1 AND key_id = $2 AND rotation_id = $3

-- api_key_secrets_end --
-- All that there are, unless they end sooner.
UPDATE api_key_secrets
SET expire_time = least(expire_time, date_trunc('milliseconds', now()) + $3::bigint * interval '1 millisecond')
WHERE tenant_id = $1 AND key_id = $2 AND (expire_time IS NULL OR expire_time > now())

-- api_key_secrets_read --
-- Those of which the caller does not know the present revision. Nulls: there is none any more.
SELECT f.secret_id, k.tenant_id, k.key_id, k.scopes, k.revision, s.pepper_id, s.digest,
    least(k.expire_time, s.expire_time, k.revoke_time) AS end_time
FROM unnest($1::text[], $2::bigint[]) AS f (secret_id, revision)
LEFT JOIN api_key_secrets s ON s.secret_id = f.secret_id
LEFT JOIN api_keys k ON k.tenant_id = s.tenant_id AND k.key_id = s.key_id
WHERE k.revision IS DISTINCT FROM f.revision

-- clock --
SELECT clock_timestamp()

-- audit_write --
INSERT INTO admin_audit (tenant_id, audit_id, principal, method, wallet_id, target, request, state_before, state_after,
    outcome, trace_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (tenant_id, audit_id) DO NOTHING

-- audit_list --
-- The newest first. Empty texts filter nothing.
SELECT audit_id, audit_time, principal, method, wallet_id, target, request, state_before, state_after, outcome, trace_id
FROM admin_audit
WHERE tenant_id = $1 AND ($2 = '' OR wallet_id = $2) AND ($3 = '' OR target = $3) AND ($4 = '' OR principal = $4)
    AND audit_time >= $5 AND (audit_time, audit_id) < ($6, $7)
ORDER BY audit_time DESC, audit_id DESC LIMIT $8
