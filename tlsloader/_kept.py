"""What every source that changes has in common: the newest good one is kept."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from clock import Clock
    from tlsloader._errors import MaterialError
    from tlsloader._material import Material

__all__ = ["KeptSource"]

_log = logging.getLogger(__name__)


class KeptSource:
    """Holds the newest good material until there is a better one.

    ``refusals`` counts, by reason, the bad states that were seen and not taken;
    each is logged once.
    """

    def __init__(self, first: Material, clock: Clock) -> None:
        self._material = first
        self._clock = clock
        self._callbacks: dict[object, Callable[[Material], None]] = {}
        self._fault: str | None = None
        self._expiry_told = False
        self.refusals: Counter[str] = Counter()
        _log.info("identity loaded", extra=_fields(first))

    @property
    def failures(self) -> int:
        """How many bad states were seen and not taken."""
        return self.refusals.total()

    @property
    def generation(self) -> int:
        """The number of the newest generation; the first is 1."""
        return self._material.generation

    @property
    def usable(self) -> bool:
        """Whether the newest generation has not expired."""
        return self._clock.now() <= self._material.not_after

    def current(self) -> Material:
        """Return the newest generation; a single attribute read, from any thread."""
        return self._material

    def subscribe(self, callback: Callable[[Material], None]) -> Callable[[], None]:
        """Have *callback* called after each publication; see `Source`."""
        token = object()
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    def _tell_expiry(self) -> None:
        if not self.usable and not self._expiry_told:
            self._expiry_told = True
            _log.error("identity expired", extra=_fields(self._material))

    def _keep(self, error: MaterialError) -> None:
        """Go on with what we have, in spite of *error*."""
        if str(error) == self._fault:
            return
        self._fault = str(error)
        self._count(error)

    def _count(self, error: MaterialError) -> None:
        self.refusals[error.reason] += 1
        fields = {
            "reason": error.reason,
            "detail": str(error),
            "generation": self.generation,
        }
        _log.warning("identity kept", extra=fields)

    def _publish(self, fresh: Material) -> None:
        self._material = fresh
        self._expiry_told = False
        _log.info("identity loaded", extra=_fields(fresh))
        for callback in tuple(self._callbacks.values()):
            try:
                callback(fresh)
            except Exception:  # noqa: BLE001 -- the others must still hear of it
                _log.exception("a subscriber of the identity failed")


def _fields(material: Material) -> dict[str, object]:
    return {
        "identity": str(material.identity),
        "generation": material.generation,
        "not_after": material.not_after.isoformat(),
        "leaf_sha256": material.leaf_sha256,
    }
