"""Where a service gets its identity, and how that identity stays fresh."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn, Protocol, Self

from clock import SYSTEM
from tlsloader._ear import Ear
from tlsloader._errors import MaterialError
from tlsloader._kept import KeptSource
from tlsloader._material import Judged, Material
from tlsloader._snapshot import BundlePaths, Paths, Snapshot
from tlsloader._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from clock import Clock

__all__ = ["FileSource", "FixedSource", "Source"]

_log = logging.getLogger(__name__)

_FIRST_LOOKS = 0.1  # seconds between looks while the first files are awaited


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


class FileSource(KeptSource):
    """The newest good material found in files.

    ``load`` it, then let somebody run ``follow``.
    """

    kind = "files"

    def __init__(
        self,
        paths: Paths,
        bundles: BundlePaths,
        first: tuple[Snapshot, Material],
        clock: Clock,
    ) -> None:
        snapshot, material = first
        super().__init__(material, clock)
        self._digest = snapshot.digest
        self._paths = paths
        self._bundles = bundles
        _warn_exposed(snapshot)

    @classmethod
    async def load(
        cls,
        paths: Paths,
        bundles: BundlePaths | None = None,
        *,
        clock: Clock = SYSTEM,
        wait: float = 30.0,
    ) -> Self:
        """Return a source that holds the first generation.

        Args:
            paths: our own key, chain and bundle.
            bundles: those of other trust domains; at first, all that are there have
                to be good.
            clock: what tells the time.
            wait: seconds to wait for files that are missing or not yet right.

        Raises:
            MaterialError: there is no usable identity after *wait* seconds. A
                service that cannot say who it is does not start.
        """
        others = bundles or BundlePaths()
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

    async def follow(self, *, poll: float = 5.0, watch: bool = True) -> NoReturn:
        """Take each good change of the files until cancelled.

        A change is heard by inotify within milliseconds; every *poll* seconds the
        content is compared all the same, for file systems that tell nothing.

        Args:
            poll: seconds between two comparisons.
            watch: whether to use inotify.
        """
        ear, own, bundles = Ear(self._clock), self._paths, self._bundles
        files = (own.key, own.chain, own.bundle, *bundles.files.values())
        with Watch(files, bundles.folder, ear.hear) as watching:
            while True:
                self._tell_expiry()
                await self._look(watching if watch else None)
                await ear.listen(poll)

    async def _look(self, watching: Watch | None) -> None:
        try:
            found = await asyncio.to_thread(self._find, watching)
        except MaterialError as error:
            self._keep(error)
            return
        if found is None:
            self._confirm()
            return
        snapshot, judged = found
        self._digest = snapshot.digest
        if judged.material != self._material:
            _warn_exposed(snapshot)
        self._take(judged)

    def _find(self, watching: Watch | None) -> tuple[Snapshot, Judged] | None:
        """Return what the files hold now, if it is something else; blocks."""
        if watching is not None:
            watching.arm()  # first, so that no change falls in between
        snapshot = Snapshot.read(self._paths, self._bundles)
        if snapshot.digest == self._digest:
            return None
        return snapshot, self._material.renewed(snapshot, now=self._clock.now())


def _first(
    paths: Paths, bundles: BundlePaths, clock: Clock
) -> tuple[Snapshot, Material]:
    snapshot = Snapshot.read(paths, bundles, complete=True)
    return snapshot, Material.judged(snapshot, now=clock.now())


def _warn_exposed(snapshot: Snapshot) -> None:
    if snapshot.key.exposed:
        fields = {"detail": f"{snapshot.key.name} is readable by others; chmod 0600"}
        _log.warning("identity key exposed", extra=fields)
