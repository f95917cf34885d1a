"""Where a service gets its identity, and how that identity stays fresh."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol, Self

from clock import SYSTEM
from tlsloader._ear import Ear
from tlsloader._followed import FollowedSource, awaited
from tlsloader._material import Material
from tlsloader._snapshot import BundlePaths, Paths, Snapshot
from tlsloader._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from clock import Clock

__all__ = ["FileSource", "FixedSource", "Source"]

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


class FileSource(FollowedSource):
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
        super().__init__(first, clock)
        self._paths = paths
        self._bundles = bundles
        self._watch: Watch | None = None

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

        def find() -> tuple[Snapshot, Material]:
            files = Snapshot.read(paths, others, complete=True)
            return files, Material.judged(files, now=clock.now())

        pause = partial(clock.sleep, _FIRST_LOOKS)
        first = await awaited(find, pause, clock=clock, wait=wait)
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
        with Watch(files, ear.hear, bundles.folder) as watching:
            self._watch = watching if watch else None
            while True:
                await self._look()
                await ear.listen(poll)

    def _find(self) -> Snapshot:
        if self._watch is not None:
            self._watch.arm()  # first, so that no change falls in between
        return Snapshot.read(self._paths, self._bundles)
