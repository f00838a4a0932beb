"""``drawdown`` and ``python -m drawdown``: the command line, when its extra is installed."""

from __future__ import annotations

import sys
from typing import Final

_EXTRA: Final = frozenset({"typer", "rich"})


def main() -> None:
    """Runs the command line; without the ``cli`` extra, says what to install."""
    try:
        from drawdown.cli import app  # noqa: PLC0415 - the import is the check
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("error: the command line needs more packages: pip install 'drawdown[cli]'\n")
        raise SystemExit(1) from None
    app(prog_name="drawdown")


if __name__ == "__main__":
    main()
