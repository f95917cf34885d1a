"""Where a service gets its identity, and how that identity stays fresh."""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, NoReturn, Protocol, Self

from clock import SYSTEM
from tlsloader._errors import MaterialError
from tlsloader._files import Paths, Snapshot
from tlsloader._material import Material
from tlsloader._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from clock import Clock

__all__ = ["FileSource", "FixedSource", "Source"]

_log = logging.getLogger(__name__)

_FIRST_LOOKS = 0.1  # seconds between looks while the first files are awaited
_QUIET = 0.01  # seconds without a change, after which a burst is over
_MAX_BURST = 0.1  # seconds after which a burst is looked at all the same


class Source(Protocol):
    """Gives the newest good material, and tells when there is newer."""

    def current(self) -> Material:
        """Return the newest generation that passed every check."""

    def subscribe(self, callback: Callable[[Material], None]) -> Callable[[], None]:
        """Have *callback* called, on the event loop, after each publication.

        Returns:
            A function that ends the subscription; calling it again is harmless.
        """


class FixedSource:
    """The one material it was made from, for ever."""

    def __init__(self, material: Material) -> None:
        self._material = material

    def current(self) -> Material:
        """Return that material."""
        return self._material

    def subscribe(self, callback: Callable[[Material], None]) -> Callable[[], None]:
        """Never call *callback*: nothing newer comes."""
        del callback
        return lambda: None


class FileSource:
    """The newest good material found in files.

    ``load`` it, then let somebody run ``follow``. ``failures`` counts the bad
    states that were seen and not taken; each is logged once, with its reason.
    """

    def __init__(
        self,
        paths: Paths,
        foreign: Mapping[str, Path],
        first: tuple[Snapshot, Material],
        clock: Clock,
    ) -> None:
        snapshot, self._material = first
        self._digest: bytes | None = snapshot.digest
        self._paths = paths
        self._foreign = dict(foreign)
        self._clock = clock
        self._callbacks: dict[object, Callable[[Material], None]] = {}
        self._fault: str | None = None
        self._expiry_told = False
        self.failures = 0
        _log_loaded(snapshot, self._material)

    @classmethod
    async def load(
        cls,
        paths: Paths,
        foreign: Mapping[str, Path] | None = None,
        *,
        clock: Clock = SYSTEM,
        wait: float = 30.0,
    ) -> Self:
        """Return a source that holds the first generation.

        Args:
            paths: our own key, chain and bundle.
            foreign: files with the bundles of other trust domains, by domain.
            clock: what tells the time.
            wait: seconds to wait for files that are missing or not yet right.

        Raises:
            MaterialError: there is no usable identity after *wait* seconds. A
                service that cannot say who it is does not start.
        """
        others = foreign or {}
        deadline = clock.monotonic() + wait
        told: str | None = None
        while True:
            try:
                first = await asyncio.to_thread(_first, paths, others, clock)
            except MaterialError as error:
                if clock.monotonic() >= deadline:
                    raise
                if str(error) != told:
                    told = str(error)
                    fields = {"reason": error.reason, "detail": told}
                    _log.warning("identity awaited", extra=fields)
                await clock.sleep(_FIRST_LOOKS)
            else:
                return cls(paths, others, first, clock)

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

    async def follow(self, *, poll: float = 5.0, watch: bool = True) -> NoReturn:
        """Take each good change of the files until cancelled.

        A change is heard by inotify within milliseconds; every *poll* seconds the
        content is compared all the same, for file systems that tell nothing.

        Args:
            poll: seconds between two comparisons.
            watch: whether to use inotify.
        """
        ear = _Ear(self._clock)
        files = (self._paths.key, self._paths.chain, self._paths.bundle)
        everything = (*files, *self._foreign.values())
        with Watch(everything, ear.hear) if watch else nullcontext() as watching:
            while True:
                if watching:
                    watching.arm()  # first, so that no change falls in between
                await self._look()
                await ear.listen(poll)

    async def _look(self) -> None:
        if not self.usable and not self._expiry_told:
            self._expiry_told = True
            _log.error("identity expired", extra=_fields(self._material))
        try:
            snapshot = await asyncio.to_thread(
                Snapshot.read, self._paths, self._foreign
            )
            if snapshot.digest == self._digest:
                self._fault = None
                return
            fresh = await asyncio.to_thread(
                Material.judged,
                snapshot,
                now=self._clock.now(),
                generation=self.generation + 1,
            )
        except MaterialError as error:
            self._keep(error)
        else:
            self._fault = None
            self._digest = snapshot.digest
            if fresh != self._material:
                self._publish(snapshot, fresh)

    def _keep(self, error: MaterialError) -> None:
        if str(error) == self._fault:
            return
        self._fault = str(error)
        self.failures += 1
        fields = {
            "reason": error.reason,
            "detail": str(error),
            "generation": self.generation,
        }
        _log.warning("identity kept", extra=fields)

    def _publish(self, snapshot: Snapshot, fresh: Material) -> None:
        self._material = fresh
        self._expiry_told = False
        _log_loaded(snapshot, fresh)
        for callback in tuple(self._callbacks.values()):
            try:
                callback(fresh)
            except Exception:  # noqa: BLE001 -- the others must still hear of it
                _log.exception("a subscriber of the identity failed")


class _Ear:
    """Waits for a change or for time to pass, without a task of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard = False
        self._waiting: asyncio.Timeout | None = None

    def hear(self) -> None:
        """Note a change; ends a `listen`."""
        self._heard = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(0)

    async def listen(self, seconds: float) -> None:
        """Return after *seconds*, or once a burst of changes is over."""
        if not self._heard:
            await self._sleep(seconds)
        latest = self._clock.monotonic() + _MAX_BURST
        while self._heard and self._clock.monotonic() < latest:
            self._heard = False
            await self._clock.sleep(_QUIET)
        self._heard = False

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(None) as self._waiting:
                await self._clock.sleep(seconds)
        except TimeoutError:
            pass  # heard something
        finally:
            self._waiting = None


def _first(
    paths: Paths, foreign: Mapping[str, Path], clock: Clock
) -> tuple[Snapshot, Material]:
    snapshot = Snapshot.read(paths, foreign, complete=True)
    return snapshot, Material.judged(snapshot, now=clock.now(), generation=1)


def _fields(material: Material) -> dict[str, object]:
    return {
        "identity": str(material.identity),
        "generation": material.generation,
        "not_after": material.not_after.isoformat(),
        "leaf_sha256": material.leaf_sha256,
    }


def _log_loaded(snapshot: Snapshot, material: Material) -> None:
    _log.info("identity loaded", extra=_fields(material))
    if snapshot.key.exposed:
        fields = {"detail": f"{snapshot.key.name} is readable by others; chmod 0600"}
        _log.warning("identity key exposed", extra=fields)
