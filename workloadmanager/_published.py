"""The roots of the sandboxes' trust domain as a file, for those who meet sandboxes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

from authority import publish_bundle, rewrite
from clock import SYSTEM

if TYPE_CHECKING:
    from pathlib import Path

    from authority import Issuer
    from clock import Clock
    from tlsloader import SpiffeID

__all__ = ["Published"]


class Published:
    """Keeps the file at *path* equal to the bundle of *issuer*."""

    def __init__(self, issuer: Issuer, path: Path, clock: Clock = SYSTEM) -> None:
        self._issuer, self._path, self._clock = issuer, path, clock
        self._changed = asyncio.Event()
        issuer.subscribe(self._hear)

    async def write(self) -> None:
        """Write the file as the bundle is now.

        Raises:
            OSError: it cannot be written.
        """
        await asyncio.to_thread(publish_bundle, self._path, self._issuer.bundle)

    async def follow(self) -> NoReturn:
        """Write it after each change, until cancelled; a full disk is tried again."""
        await rewrite(self.write, self._changed, self._clock)

    def _hear(self, identity: SpiffeID | None) -> None:
        if identity is None:
            self._changed.set()
