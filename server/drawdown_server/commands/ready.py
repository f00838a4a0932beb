"""``python -m drawdown_server.commands.ready``: is the server beside us ready? For health checks of containers.

Asks /readyz of its admin port, of every worker's; exit status 1 and the problem when one is not ready. Not a command
of ``drawdown-server``, because it must load nothing: it runs every few seconds.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from typing import Final

TIMEOUT_S: Final = 3.0
"""Of one question; a server answers within its own second."""


_ASK: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Never through the proxy that the environment names for others, as containers' often does."""


def problem(port: int) -> str:
    """What is wrong with the process behind an admin port; empty if nothing is."""
    try:
        with _ASK.open(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
    except OSError as error:
        return f"nothing answers on port {port}: {error}"


def main() -> int:
    """The exit status."""
    port = os.environ.get("DRAWDOWN_ADMIN_PORT", "")
    if not port:
        sys.stderr.write("DRAWDOWN_ADMIN_PORT is not set: there is nothing to ask\n")
        return 1
    workers = int(os.environ.get("DRAWDOWN_WORKERS") or 1)
    found = [text for worker in range(workers) if (text := problem(int(port) + worker))]
    sys.stdout.write("\n".join(found) or "ready\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
