"""What every source that changes has in common: the newest good one is kept."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from tlsloader._subscribers import Subscribers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clock import Clock
    from tlsloader._errors import MaterialError
    from tlsloader._material import Judged, Material

__all__ = ["KeptSource"]

_log = logging.getLogger(__name__)


class KeptSource:
    """Holds the newest good material until there is a better one.

    ``refusals`` counts, by reason, the bad states that were seen and not taken;
    each is logged once. ``confirmed`` is the wall time at which nothing was wrong
    last. All that is public can be read from any thread.
    """

    kind: ClassVar[str] = "other"
    """Where the identity comes from, for logs and metrics."""

    def __init__(self, first: Material, clock: Clock) -> None:
        self._material = first
        self._clock = clock
        self._subscribers: Subscribers[Material] = Subscribers()
        self._told: set[str] = set()
        self._standing: Sequence[MaterialError] = ()
        self._expiry_told = False
        self._loaded = clock.monotonic()
        self.confirmed = clock.now()
        self.refusals: Counter[str] = Counter()
        _log.info("identity loaded", extra=self._fields(first))

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
        """Whether it is between the dates of the newest generation."""
        return self._material.covers(self._clock.now())

    @property
    def age(self) -> float:
        """Seconds since the newest generation came."""
        return self._clock.monotonic() - self._loaded

    @property
    def seconds_left(self) -> float:
        """Seconds until the newest generation expires; negative once it has."""
        return (self._material.not_after - self._clock.now()).total_seconds()

    def current(self) -> Material:
        """Return the newest generation; a single attribute read, from any thread."""
        return self._material

    def subscribe(self, callback: Callable[[Material], None]) -> Callable[[], None]:
        """Have *callback* called after each publication; see `Source`."""
        return self._subscribers.add(callback)

    def _tell_expiry(self) -> None:
        """Say once that the newest generation is over, or by our clock yet to begin."""
        if self.usable:
            self._expiry_told = False
        elif not self._expiry_told:
            self._expiry_told = True
            event = "identity expired" if self.seconds_left < 0 else "clock is behind"
            _log.error(event, extra=self._fields(self._material))

    def _take(self, judged: Judged) -> None:
        """Use *judged* from now on; what is no news changes nothing."""
        self._standing = judged.faults
        self._confirm()
        if judged.material != self._material:
            self._publish(judged.material)

    def _confirm(self) -> None:
        """Note that what we hold is what there is, but for the standing faults."""
        self._tell(self._standing, "bundle kept")
        if not self._standing and self._in_touch():
            self.confirmed = self._clock.now()

    def _in_touch(self) -> bool:
        """Whether news could reach us."""
        return True

    def _keep(self, error: MaterialError) -> None:
        """Go on with what we have, in spite of *error*."""
        self._tell((*self._standing, error), "identity kept")

    def _tell(self, faults: Sequence[MaterialError], event: str) -> None:
        """Count and log those of *faults* that were not there at the last look."""
        for fault in faults:
            if str(fault) not in self._told:
                self._count(fault, event)
        self._told = {str(fault) for fault in faults}

    def _count(self, error: MaterialError, event: str = "identity kept") -> None:
        self.refusals[error.reason] += 1
        fields = {
            "reason": error.reason,
            "detail": str(error),
            "generation": self.generation,
        }
        _log.warning(event, extra=fields)

    def _publish(self, fresh: Material) -> None:
        held, self._material = self._material, fresh
        self._loaded = self._clock.monotonic()
        self._expiry_told = False
        _log.info("identity loaded", extra=self._fields(fresh))
        if fresh.not_before < held.not_before:
            began = f"{held.not_before:%FT%TZ}, this one {fresh.not_before:%FT%TZ}"
            detail = f"the one before began at {began}; is an old copy written back?"
            _log.warning("identity is an older one", extra={"detail": detail})
        for callback in self._subscribers:
            try:
                callback(fresh)
            except Exception:  # noqa: BLE001 -- the others must still hear of it
                _log.exception("a subscriber of the identity failed")

    def _fields(self, material: Material) -> dict[str, object]:
        bundles = material.bundles.values()
        return {
            "identity": str(material.identity),
            "source": self.kind,
            "generation": material.generation,
            "not_before": material.not_before.isoformat(),
            "not_after": material.not_after.isoformat(),
            "leaf_sha256": material.leaf_sha256,
            "bundles": {each.trust_domain: each.short_fingerprint for each in bundles},
        }
