"""The durable path: the outbox becomes an append-only double-entry ledger in Postgres, and back."""
