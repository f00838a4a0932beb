-- The server's rights, one line per table: no more than its queries need (tests/unit/test_ledger_rights.py compares).
-- What is recorded is append-only: no UPDATE, no DELETE on entries, hold_events, wallet_changes, dead_letters,
-- admin_audit.
GRANT USAGE ON SCHEMA public TO drawdown_server;
GRANT SELECT ON schema_migrations TO drawdown_server;

GRANT SELECT, INSERT ON installation TO drawdown_server;
-- A lock on its row asks for the right to change one column: the one whose CHECK lets it have no other value.
GRANT UPDATE (singleton) ON installation TO drawdown_server;
GRANT SELECT, INSERT, UPDATE ON partitions TO drawdown_server;
GRANT SELECT, INSERT, UPDATE ON left_epochs TO drawdown_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON servers TO drawdown_server;

GRANT SELECT, INSERT, UPDATE ON api_keys TO drawdown_server;
GRANT SELECT, INSERT, UPDATE ON api_key_secrets TO drawdown_server;
GRANT SELECT, INSERT ON admin_audit TO drawdown_server;

GRANT SELECT, INSERT ON assets TO drawdown_server;
GRANT SELECT, INSERT, UPDATE ON wallets TO drawdown_server;
GRANT SELECT, INSERT ON wallet_changes TO drawdown_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON wallet_closings TO drawdown_server;
GRANT SELECT, INSERT, UPDATE ON grants TO drawdown_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON caps TO drawdown_server;

GRANT SELECT, INSERT ON entries TO drawdown_server;
GRANT SELECT, INSERT, UPDATE ON balances TO drawdown_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON applied_caps TO drawdown_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON cap_usage TO drawdown_server;
GRANT SELECT, INSERT, UPDATE ON settled_holds TO drawdown_server;
GRANT SELECT, INSERT ON hold_events TO drawdown_server;
GRANT SELECT, INSERT ON dead_letters TO drawdown_server;
