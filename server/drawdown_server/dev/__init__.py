"""For a developer's machine: an embedded Valkey and Postgres, seed data, the demo."""
