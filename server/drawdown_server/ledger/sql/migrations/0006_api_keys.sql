-- The credentials of callers. A key has the scopes; its secrets, more than one while it is rotated, are what callers bring.
CREATE TABLE api_keys (
    tenant_id text NOT NULL,
    key_id text NOT NULL,
    display_name text NOT NULL,
    scopes text[] NOT NULL,
    revision bigint NOT NULL DEFAULT 1 CHECK (revision >= 1),
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    expire_time timestamptz,
    revoke_time timestamptz,
    PRIMARY KEY (tenant_id, key_id)
);
COMMENT ON COLUMN api_keys.revision IS
    'Grows with every change of the key or of its secrets: servers that know the key ask for those with another one.';
COMMENT ON COLUMN api_keys.revoke_time IS 'It counts no more from then on. Keys are never deleted.';

CREATE TABLE api_key_secrets (
    tenant_id text NOT NULL,
    key_id text NOT NULL,
    rotation_id text NOT NULL,
    secret_id text NOT NULL,
    pepper_id text NOT NULL,
    digest bytea NOT NULL,
    overlap_ms bigint NOT NULL DEFAULT 0 CHECK (overlap_ms >= 0),
    create_time timestamptz NOT NULL DEFAULT date_trunc('milliseconds', now()),
    expire_time timestamptz,
    PRIMARY KEY (tenant_id, key_id, rotation_id)
);
COMMENT ON COLUMN api_key_secrets.rotation_id IS 'The caller''s id of the rotation that made it; empty for the first.';
COMMENT ON COLUMN api_key_secrets.secret_id IS
    'The public part of the secret. Random, 71 bits: unique without a constraint, which would have to span all tenants.';
COMMENT ON COLUMN api_key_secrets.digest IS 'HMAC-SHA256 of the secret, with the pepper of that id, which is not in the database.';
COMMENT ON COLUMN api_key_secrets.overlap_ms IS 'How long the rotation that made it left the secrets before it.';

-- A call brings the secret alone: its tenant is what is looked for.
CREATE INDEX api_key_secrets_by_secret ON api_key_secrets (secret_id);
