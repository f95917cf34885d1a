"""Who did what to which session, and what was decided: one line each.

A refusal is always a line. A permission is a line the first time a principal calls a
method of a session; the repetitions are counted and told once a minute, since a line
costs more than the whole forwarding of a small call. No line holds a token, a path or
anything else of a call's contents.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from auth import Principal
    from clock import Clock
    from router._ask import Ask
    from router._callers import Caller
    from router._channels import Upstream

__all__ = ["Audit"]

_PERIOD = 60.0

_log = logging.getLogger("router.audit")


class Audit:
    """Writes the lines; *refusals* counts them by reason."""

    def __init__(self, refusals: Counter[str]) -> None:
        self.refusals = refusals

    def allowed(self, caller: Caller, method: str, upstream: Upstream) -> None:
        """Note a call that goes to a sandbox."""
        key = caller, method
        count = upstream.audited.get(key)
        if count is None:
            self.say(caller.principal, method, upstream.session_id)
            count = -1
        upstream.audited[key] = count + 1

    def say(self, principal: Principal, method: str, session_id: str) -> None:
        """Write the line of something that was allowed."""
        _log.info("allowed", extra=_fields(principal, method, session_id))

    def refused(
        self, caller: Caller, method: str, ask: Ask, reason: str, detail: str
    ) -> None:
        """Write the line of a refusal."""
        self.refusals[reason] += 1
        fields = {
            **_fields(caller.principal, method, ask.session_id),
            "decision": "deny",
            "reason": reason,
            "detail": detail,
            "request_id": ask.request_id,
        }
        _log.warning("refused", extra=fields)

    async def report(self, upstreams: Iterable[Upstream], clock: Clock) -> NoReturn:
        """Tell the repetitions once a minute."""
        while True:
            await clock.sleep(_PERIOD)
            for upstream in upstreams:
                self.sum_up(upstream)

    def sum_up(self, upstream: Upstream) -> None:
        """Write one line for all repetitions of each kind since the last one."""
        for (caller, method), count in upstream.audited.items():
            if count:
                fields = _fields(caller.principal, method, upstream.session_id)
                _log.info("allowed again", extra={**fields, "count": count})
                upstream.audited[caller, method] = 0


def _fields(principal: Principal, method: str, session_id: str) -> dict[str, object]:
    return {
        "who": principal.subject,
        "issuer": principal.issuer,
        "method": method,
        "session_id": session_id,
        "decision": "allow",
    }
