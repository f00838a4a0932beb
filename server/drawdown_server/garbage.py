"""What Python's garbage collector looks at in a process that does nothing but serve."""

from __future__ import annotations

import gc
from typing import Final

NEW_OBJECTS: Final = 5_000
"""Between two collections. With Python's 700 each looks again at most of what a few Batches are made of, which took a
tenth of their time; so many are some MB at most."""


def keep_what_is_loaded() -> None:
    """Look at new objects alone from here on: what is loaded by now stays until the end of the process.

    For the process of a server, not for ``app.serve``, which may run inside another program.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
