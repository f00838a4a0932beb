-- The processes of this installation, and the Valkey from which each serves: one Valkey at a time serves an installation.
CREATE TABLE servers (
    server_id text PRIMARY KEY,
    run_id text NOT NULL,
    expire_time timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN servers.server_id IS 'Host, process and a random part: unique per start.';
COMMENT ON COLUMN servers.run_id IS 'What the Valkey calls itself: another one after each of its starts.';
COMMENT ON COLUMN servers.expire_time IS
    'It wrote to that Valkey shortly before. Past this time it is gone, or has lost one of its stores.';

-- Epochs that were left behind: whose keys are still to be deleted from Valkey, and what of their outboxes is recorded.
CREATE TABLE left_epochs (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    position text NOT NULL,
    swept boolean NOT NULL DEFAULT false,
    PRIMARY KEY (partition, epoch)
);
COMMENT ON COLUMN left_epochs.position IS 'Stream id of the last event of this epoch that is recorded.';
COMMENT ON COLUMN left_epochs.swept IS 'Its keys are gone from Valkey.';
