"""What a call's metadata asks for, and what of it the sandbox may see."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from router._errors import InvalidAskError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SESSION", "Ask", "read"]

SESSION = "x-agentcube-session-id"
_FIELDS = {
    SESSION: "session_id",
    "x-cubemesh-namespace": "namespace",
    "x-cubemesh-template": "template",
    "x-cubemesh-idempotency-key": "idempotency_key",
    "x-request-id": "request_id",
}
# The W3C trace context. Whatever stands neither here nor above ends at the Router.
_PASSED = frozenset(("traceparent", "tracestate"))
_VALUE_LIMIT = 256

# Names the calls of this process that came without a name of their own.
_prefix = secrets.token_hex(6)
_numbers = itertools.count(1)


@dataclass(slots=True)
class Ask:
    """One call's wishes; empty: none stated."""

    session_id: str = ""
    namespace: str = ""
    template: str = ""
    idempotency_key: str = ""
    request_id: str = ""
    # What goes on to the sandbox, request id included.
    passed: tuple[tuple[str, str], ...] = ()


def read(metadata: Iterable[tuple[str, str | bytes]]) -> Ask:
    """Read a call's metadata.

    Raises:
        InvalidAskError: a key of ours is there twice or its value is too long.
    """
    ask = Ask()
    for key, value in metadata:
        if (field := _FIELDS.get(key)) is not None:
            if getattr(ask, field) or len(value) > _VALUE_LIMIT:
                raise InvalidAskError(f"{key} is too long or there twice", field=key)
            setattr(ask, field, value)
        elif key in _PASSED and len(value) <= _VALUE_LIMIT:
            ask.passed += ((key, str(value)),)
    if not ask.request_id:
        ask.request_id = f"{_prefix}-{next(_numbers):x}"
    ask.passed += (("x-request-id", ask.request_id),)
    return ask
