"""JSON logs with request ids. Request bodies and headers are never logged."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, TextIO

import structlog


def configure_logging(stream: TextIO | None = None) -> None:
    """Log one JSON object per line, to stderr by default.

    Loggers of the standard library use the same format, unless the root logger has handlers.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _Logger(stream or sys.stderr),
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # RequestLog logs every request with its id.
    for chatty in ("httpx", "httpx2", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Logger(structlog.PrintLogger):
    """Drops a line that cannot be written, as the standard library's handlers do.

    A full disk or a closed pipe must not stop the thread that logs.
    """

    def msg(self, message: str) -> None:
        """Write one line if possible."""
        with suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = msg
