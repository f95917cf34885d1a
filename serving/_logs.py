"""JSON log lines on standard error, one per event, from structlog and stdlib alike."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from contextlib import AbstractContextManager

    from structlog.typing import Processor

    Event = MutableMapping[str, Any]

__all__ = ["bound", "configure_logging"]

_LENGTH_LIMIT = 16_384
_SECRET_KEYS = re.compile(
    r"(^|_|-)(authorization|cookie|key_pem|password|private_key|secrets?|tokens?)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # a JWT
    r"|(?<=[Bb]earer )\S+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*-----|\Z)"
)
_HIDDEN = "[hidden]"


def configure_logging(
    service: str, level: str = "info", stream: TextIO | None = None
) -> None:
    """Render every log record of this process as one JSON line on *stream*.

    Fields: ``timestamp`` (UTC, ISO 8601), ``level``, ``service``, ``event``,
    ``logger``, the record's ``extra``, and what `bound` holds. What looks like a
    key or a token is hidden, wherever it stands.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _Named(service),
            _hide,
            structlog.processors.JSONRenderer(default=_plain),
        ],
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    if root.level != (wanted := logging.getLevelNamesMapping()[level.upper()]):
        root.setLevel(wanted)  # looks at all loggers
    logging.captureWarnings(capture=True)


def bound(**fields: str) -> AbstractContextManager[Any]:
    """Add *fields*, e.g. ``request_id``, to what this task logs in the block."""
    return structlog.contextvars.bound_contextvars(**fields)


class _Named:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        del logger, method
        event["service"] = self._service
        return event


def _hide(logger: Any, method: str, event: Event) -> Event:
    del logger, method
    for key, value in list(event.items()):
        event[key] = _HIDDEN if _SECRET_KEYS.search(key) else _shown(value)
    return event


def _shown(value: Any) -> Any:
    """Return *value* without what looks like a secret, and not too long."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return _SECRET_TEXT.sub(_HIDDEN, value[:_LENGTH_LIMIT])
    if isinstance(value, dict):
        return dict(_shown_items(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_shown(each) for each in value]
    return value


def _shown_items(value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, each in value.items():
        name = str(key)
        yield name, _HIDDEN if _SECRET_KEYS.search(name) else _shown(each)


def _plain(value: Any) -> Any:
    return _shown(str(value))
