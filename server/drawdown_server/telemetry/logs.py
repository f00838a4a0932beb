"""Structured logs on stderr: one event per line, named ``noun.verb``, with keys instead of prose."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog


def configure_logs(level: str, output: Literal["json", "console"]) -> None:
    """Send every log line of this process to stderr, from ``level`` up, as JSON or for people."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if output == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    formatting: list[structlog.types.Processor] = [structlog.processors.dict_tracebacks] if output == "json" else []
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *formatting,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        # The stderr of the moment: whoever replaces it (a test, a supervisor) gets the lines.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
