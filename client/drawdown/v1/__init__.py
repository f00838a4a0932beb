"""Messages and stubs of the package ``drawdown.v1``, generated from protos/drawdown/v1."""
