"""The command line ``drawdown``: one module per noun, all through the public client."""

from drawdown.cli import assets, balances, entries, grants, holds, wallets
from drawdown.cli.session import app

__all__ = ["app"]

app.add_typer(assets.app, name="asset")
app.add_typer(wallets.app, name="wallet")
app.add_typer(grants.app, name="grant")
app.add_typer(holds.app, name="hold")
balances.register(app)
holds.register(app)
entries.register(app)
