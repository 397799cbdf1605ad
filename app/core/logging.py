"""JSON logs with request ids. No body and no header is ever logged."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, TextIO

import structlog


def configure_logging(stream: TextIO | None = None) -> None:
    """One JSON object a line (on stderr); the standard library's loggers too, unless taken."""
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
    # Every one of our requests is logged already, with its id.
    for chatty in ("httpx", "httpx2", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Logger(structlog.PrintLogger):
    """Costs a line, not a job, where its disk is full or nobody reads any more.

    As the standard library's handlers do it. Who logs may be a thread that must not end.
    """

    def msg(self, message: str) -> None:
        """Print it, if that can be done."""
        with suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = msg
