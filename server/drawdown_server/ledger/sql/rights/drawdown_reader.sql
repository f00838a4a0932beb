-- The rights of people who look, one line per table; a table of secrets, or of their digests, gets none.
GRANT USAGE ON SCHEMA public TO drawdown_reader;
GRANT SELECT ON schema_migrations TO drawdown_reader;

GRANT SELECT ON installation TO drawdown_reader;
GRANT SELECT ON partitions TO drawdown_reader;
GRANT SELECT ON left_epochs TO drawdown_reader;
GRANT SELECT ON servers TO drawdown_reader;

GRANT SELECT ON api_keys TO drawdown_reader;
GRANT SELECT ON admin_audit TO drawdown_reader;

GRANT SELECT ON assets TO drawdown_reader;
GRANT SELECT ON wallets TO drawdown_reader;
GRANT SELECT ON wallet_changes TO drawdown_reader;
GRANT SELECT ON wallet_closings TO drawdown_reader;
GRANT SELECT ON grants TO drawdown_reader;
GRANT SELECT ON caps TO drawdown_reader;

GRANT SELECT ON entries TO drawdown_reader;
GRANT SELECT ON balances TO drawdown_reader;
GRANT SELECT ON applied_caps TO drawdown_reader;
GRANT SELECT ON cap_usage TO drawdown_reader;
GRANT SELECT ON settled_holds TO drawdown_reader;
GRANT SELECT ON hold_events TO drawdown_reader;
GRANT SELECT ON dead_letters TO drawdown_reader;
