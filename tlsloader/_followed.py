"""What the sources have in common that look, again and again, for something newer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from tlsloader._errors import MaterialError
from tlsloader._kept import KeptSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clock import Clock
    from tlsloader._material import Judged, Material
    from tlsloader._snapshot import Snapshot

__all__ = ["FollowedSource", "awaited"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class FollowedSource(KeptSource):
    """Judges what there is whenever it differs from what was taken last."""

    def __init__(self, first: tuple[Snapshot, Material], clock: Clock) -> None:
        files, material = first
        super().__init__(material, clock)
        self._digest = files.digest
        _warn_exposed(files)

    def _find(self) -> Snapshot:
        """Return what there is; blocks on file I/O.

        Raises:
            MaterialError: it cannot be had.
        """
        raise NotImplementedError

    async def _look(self) -> None:
        """Take what there is, if it is new and good."""
        self._tell_expiry()
        try:
            found = await asyncio.to_thread(self._judge)
        except MaterialError as error:
            self._keep(error)
            return
        if found is None:
            self._confirm()
            return
        files, judged = found
        self._digest = files.digest
        if judged.material != self._material:
            _warn_exposed(files)
        self._take(judged)

    def _judge(self) -> tuple[Snapshot, Judged] | None:
        files = self._find()
        if files.digest == self._digest:
            return None
        return files, self._material.renewed(files, now=self._clock.now())


async def awaited(
    find: Callable[[], _T],
    pause: Callable[[], Awaitable[None]],
    *,
    clock: Clock,
    wait: float,
) -> _T:
    """Return what *find* finds, which blocks, once it is good.

    Raises:
        MaterialError: what is wrong after *wait* seconds of looks and pauses.
    """
    deadline = clock.monotonic() + wait
    told: str | None = None
    while True:
        try:
            return await asyncio.to_thread(find)
        except MaterialError as error:
            if clock.monotonic() >= deadline:
                raise
            if str(error) != told:
                told = str(error)
                fields = {"reason": error.reason, "detail": told}
                _log.warning("identity awaited", extra=fields)
        await pause()


def _warn_exposed(files: Snapshot) -> None:
    if files.key.exposed:
        fields = {"detail": f"{files.key.name} is readable by others; chmod 0600"}
        _log.warning("identity key exposed", extra=fields)
