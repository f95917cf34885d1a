"""Whether a wish for a session can be granted at all, and on what terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from workloadmanager import _contents
from workloadmanager._errors import InvalidRequestError
from workloadmanager._ids import is_label

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from workloadmanager._templates import Template
    from workloadmanager._values import Owner, Wish

__all__ = ["Terms", "check", "check_owner", "check_span", "terms"]

_LONGEST_REQUEST_ID = 128
_LONGEST_NAME = 2048
_MOST_VARIABLES = 1024
_LARGEST_ENVIRONMENT = 1 << 20


class Terms(NamedTuple):
    """When a session ends: at the time set, at the latest ever, and when idle."""

    expires_at: datetime
    latest_expiry: datetime
    idle_timeout: timedelta


def check(wish: Wish) -> None:
    """See that *wish* is well-formed.

    Raises:
        InvalidRequestError: names the first field that is not.
    """
    for field, label in (("namespace", wish.namespace), ("template", wish.template)):
        if not is_label(label):
            raise InvalidRequestError(field, "must be a label of 1 to 63 a-z, 0-9, -")
    request_id = wish.request_id
    if len(request_id) > _LONGEST_REQUEST_ID or not _is_printable(request_id):
        raise InvalidRequestError(
            "request_id", f"must be at most {_LONGEST_REQUEST_ID} printable characters"
        )
    check_owner(wish.owner)
    _check_environment(wish.environment)
    _contents.check(wish.contents)


def check_owner(owner: Owner) -> None:
    """See that *owner* names somebody.

    Raises:
        InvalidRequestError: it does not.
    """
    for part in (owner.issuer, owner.subject):
        if not 0 < len(part) <= _LONGEST_NAME:
            raise InvalidRequestError("owner", "issuer and subject must be set")
    if len(owner.display) > _LONGEST_NAME:
        raise InvalidRequestError("owner", "display is too long")


def check_span(field: str, span: timedelta, most: timedelta) -> timedelta:
    """Return *span*, which is positive and at most *most*.

    Raises:
        InvalidRequestError: it is not.
    """
    if span.total_seconds() < 0.001:  # noqa: PLR2004  # what the store can keep
        raise InvalidRequestError(field, "must be at least a millisecond")
    if span > most:
        raise InvalidRequestError(field, f"must be at most {most.total_seconds():g} s")
    return span


def terms(wish: Wish, template: Template, now: datetime) -> Terms:
    """Return when the session that *wish* asks for is to end.

    Raises:
        InvalidRequestError: it asks for more than *template* allows.
    """
    most = template.maximum_lifetime
    lifetime = template.default_lifetime
    if wish.lifetime is not None:
        lifetime = check_span("lifetime", wish.lifetime, most)
    idle = min(template.idle_timeout, most)
    if wish.idle_timeout is not None:
        idle = check_span("idle_timeout", wish.idle_timeout, most)
    return Terms(now + lifetime, now + most, idle)


def _is_printable(text: str) -> bool:
    return text.isascii() and (not text or text.isprintable())


def _check_environment(environment: Mapping[str, str]) -> None:
    if len(environment) > _MOST_VARIABLES:
        raise InvalidRequestError("environment", "has too many variables")
    size = 0
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidRequestError("environment", "a variable is malformed")
        size += len(name.encode()) + len(value.encode())
    if size > _LARGEST_ENVIRONMENT:
        raise InvalidRequestError("environment", "is larger than 1 MiB")
