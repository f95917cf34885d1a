"""Rules about callers and sessions: values in, a refusal or nothing out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router._errors import (
    NotYoursError,
    RouterError,
    SessionExpiredError,
    SessionMismatchError,
    SessionNotFoundError,
)

if TYPE_CHECKING:
    from auth import Principal
    from router._ask import Ask
    from router._callers import Caller

__all__ = ["belongs", "fits", "for_caller"]


def belongs(session_owner: Principal, caller: Caller) -> None:
    """Let only the owner or an administrator go on.

    Raises:
        NotYoursError: *caller* is neither.
    """
    if not caller.owns(session_owner):
        raise NotYoursError("the session belongs to somebody else")


def fits(ask: Ask, namespace: str, template: str) -> None:
    """Refuse a session used where it does not live.

    Raises:
        SessionMismatchError: the call names another namespace or template.
    """
    if ask.namespace and ask.namespace != namespace:
        text = "the session lives in another namespace"
    elif ask.template and ask.template != template:
        text = "the session has another template"
    else:
        return
    raise SessionMismatchError(text, namespace=namespace, template=template)


def for_caller(error: RouterError, caller: Caller) -> RouterError:
    """Tell of an ended session to its owner only; to others it never was."""
    if not isinstance(error, SessionExpiredError):
        return error
    told = dict(error.metadata)
    owner = told.pop("owner_issuer", ""), told.pop("owner_subject", "")
    if caller.admin or caller.principal.key == owner:
        return SessionExpiredError(str(error), **told)
    return SessionNotFoundError("no such session")
