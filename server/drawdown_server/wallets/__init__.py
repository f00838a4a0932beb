"""Administration: assets, wallets, grants. Postgres first, then applied to the live balance."""
