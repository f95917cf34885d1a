"""Our own roots as a file: sandboxes have no SPIFFE agent to ask for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

from authority import publish_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from tlsloader import Source

__all__ = ["Roots"]


class Roots:
    """Keeps the file at *path* equal to our own bundle in *source*."""

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self._path = path

    async def publish(self) -> None:
        """Write the file as the bundle is now."""
        own = self._source.current()
        pem = own.bundles[own.identity.trust_domain].pem
        await asyncio.to_thread(publish_bundle, self._path, pem)

    async def follow(self) -> NoReturn:
        """Write it after each change."""
        changed = asyncio.Event()
        unsubscribe = self._source.subscribe(lambda _: changed.set())
        try:
            while True:
                changed.clear()
                await self.publish()
                await changed.wait()
        finally:
            unsubscribe()
