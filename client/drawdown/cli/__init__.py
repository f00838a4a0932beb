"""The command line ``drawdown``: one module per noun, all through the public client."""

from drawdown.cli import (
    assets,
    audit,
    authorize,
    balances,
    caps,
    entries,
    grants,
    holds,
    keys,
    load,
    settle,
    wallet_view,
    wallets,
)
from drawdown.cli.session import app

__all__ = ["app"]

app.add_typer(assets.app, name="asset")
app.add_typer(wallets.app, name="wallet")
wallet_view.register(wallets.app)
app.add_typer(grants.app, name="grant")
app.add_typer(caps.app, name="cap")
app.add_typer(holds.app, name="hold")
app.add_typer(keys.app, name="key")
app.add_typer(audit.app, name="audit")
balances.register(app)
authorize.register(app)
settle.register(app)
entries.register(app)
load.register(app)
