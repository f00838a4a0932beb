"""Several processes that serve one port: a supervisor that starts them, and what each of them tells it."""
