-- What administrators did: a row per call that changed something, written with the change. Append-only.
CREATE TABLE admin_audit (
    tenant_id text NOT NULL,
    audit_id text NOT NULL,
    audit_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
    principal text NOT NULL,
    method text NOT NULL,
    wallet_id text NOT NULL,
    target text NOT NULL,
    request jsonb NOT NULL,
    state_before jsonb,
    state_after jsonb,
    outcome text NOT NULL CHECK (outcome IN ('DONE', 'INTENDED', 'DENIED')),
    trace_id text NOT NULL,
    PRIMARY KEY (tenant_id, audit_id)
);
CREATE INDEX admin_audit_by_time ON admin_audit (tenant_id, audit_time, audit_id);
CREATE INDEX admin_audit_by_wallet ON admin_audit (tenant_id, wallet_id, audit_time, audit_id);
CREATE INDEX admin_audit_by_principal ON admin_audit (tenant_id, principal, audit_time, audit_id);
COMMENT ON COLUMN admin_audit.audit_id IS
    'Random; of what is recorded before it happens a digest, so that its repeat is the same row.';
COMMENT ON COLUMN admin_audit.principal IS 'Which credential called. Empty without identity.';
COMMENT ON COLUMN admin_audit.wallet_id IS 'The wallet that it was about; empty = none.';
COMMENT ON COLUMN admin_audit.state_before IS 'Null: it was not there.';
COMMENT ON COLUMN admin_audit.state_after IS 'Null: it was not there any more, or nothing was changed.';
COMMENT ON COLUMN admin_audit.outcome IS
    'DONE; INTENDED: in Valkey, recorded before; DENIED: the credential lacks the scope.';
