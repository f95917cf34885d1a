"""Log records as JSON lines, in the fields that all services use."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import IO

__all__ = ["configure_logging"]

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        extra = {key: vars(record)[key] for key in vars(record).keys() - _OWN}
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "service": "authority",
            "logger": record.name,
            "event": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str, stream: IO[str]) -> None:
    """Write what this process logs at *level* or above to *stream*."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JSONLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
