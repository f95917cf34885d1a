"""What is wrong with a SPIRE just now, told once and counted."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authority._errors import AuthorityError

__all__ = ["Faults"]

_log = logging.getLogger(__name__)


class Faults:
    """The last fault of each party, by the first word of its reason."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self._now: dict[str, AuthorityError] = {}

    @property
    def current(self) -> AuthorityError | None:
        """One of those that last."""
        return next(iter(self._now.values()), None)

    def note(self, error: AuthorityError) -> None:
        """Count *error*; it is logged when it is another than before."""
        who = error.reason.partition("_")[0]
        known = self._now.get(who)
        self._now[who] = error
        self.counted[error.reason] += 1
        if known is None or known.reason != error.reason:
            fields = {"reason": error.reason, "detail": str(error), "hint": error.hint}
            _log.warning("identities not issued", extra=fields)

    def clear(self, who: str) -> None:
        """Note that *who* is well."""
        if self._now.pop(who, None) is not None:
            _log.info("identities issued again", extra={"who": who})
