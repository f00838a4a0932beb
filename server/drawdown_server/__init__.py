"""The Drawdown server: may this customer spend this, now?"""

import os

# gRPC's fork handlers break programs that are started while it runs (the embedded stores, tests); we never fork
# without exec, so nothing needs them. It has to be said before grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# gRPC's C core has a log of its own on stderr; what matters of it reaches us as exceptions and statuses.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
