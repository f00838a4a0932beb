"""Structured logs on stderr: one event per line, named ``noun.verb``, with keys instead of prose.

Secrets never get there: values under a key that names a secret, passwords in URLs, credentials after ``Bearer``, API
keys and wallet tokens are masked in every line, and tracebacks come without the values of variables. Lines of libraries
take the same way.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Final, Literal

import structlog

from drawdown_server.config import MASK, mask_url

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_SECRET_KEY: Final = re.compile(
    r"authorization|password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|credential|cookie",
    re.IGNORECASE,
)
_CREDENTIAL: Final = re.compile(r"\b(bearer|basic)\s+[^\s\"',;]+", re.IGNORECASE)
_KEY_OR_TOKEN: Final = re.compile(r"\b(dd[kw]_)[0-9A-Za-z_-]+")
_FIELDS_OF_OURS: Final = frozenset({"event", "level", "timestamp"})
DEPTH_MAX: Final = 12
"""Nested values deeper than this are masked as a whole: a traceback has 5 levels."""


def configure_logs(level: str, output: Literal["json", "console"]) -> None:
    """Send every log line of this process to stderr, from ``level`` up, as JSON or for people."""
    renderer: structlog.types.Processor
    if output == "json":
        renderer = structlog.processors.JSONRenderer()
        traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        formatting: list[structlog.types.Processor] = [structlog.processors.ExceptionRenderer(traceback)]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        formatting = [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,  # which worker this is
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *formatting,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        # The stderr of the moment: whoever replaces it (a test, a supervisor) gets the lines.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _FromLibraries)]:
        root.removeHandler(handler)
    root.addHandler(_FromLibraries(logging.WARNING))


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001  # structlog's signature
    """A processor that masks secrets, wherever in the line they are."""
    return {name: _masked(name, value, DEPTH_MAX) for name, value in event.items()}


def _masked(name: str, value: object, depth: int) -> object:
    if (_SECRET_KEY.search(name) and name not in _FIELDS_OF_OURS) or isinstance(value, bytes) or depth == 0:
        return MASK
    match value:
        case str():
            return _KEY_OR_TOKEN.sub(rf"\1{MASK}", _CREDENTIAL.sub(rf"\1 {MASK}", mask_url(value)))
        case dict():
            return {key: _masked(str(key), nested, depth - 1) for key, nested in value.items()}
        case list() | tuple():
            return [_masked("", nested, depth - 1) for nested in value]
    return value


class _FromLibraries(logging.Handler):
    """Lines of libraries, which use Python's own logging."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(
            record.levelno,
            "library.message",
            library=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )
