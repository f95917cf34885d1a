"""Keep an identity that an agent gives as files, for clients that read files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

from authority._files import publish_bundle, write_identity
from authority._rewrite import rewrite
from clock import SYSTEM

if TYPE_CHECKING:
    from pathlib import Path

    from clock import Clock
    from tlsloader import Source

__all__ = ["Copier"]


class Copier:
    """Makes *folder* hold what *source* does: ``svid.pem``, ``key.pem``; see `keep`.

    The roots go into *bundles*, as ``<trust domain>.pem``.
    """

    def __init__(
        self, source: Source, folder: Path, bundles: Path, clock: Clock = SYSTEM
    ) -> None:
        self._source, self._folder, self._bundles = source, folder, bundles
        self._clock = clock
        self._changed = asyncio.Event()
        source.subscribe(lambda _: self._changed.set())

    async def write(self) -> None:
        """Write all of it, the roots first: nothing is shown that they do not know.

        Raises:
            OSError: it cannot be written.
        """
        await asyncio.to_thread(self._write)

    async def keep(self) -> NoReturn:
        """Write it after each change, until cancelled; a full disk is tried again."""
        await rewrite(self.write, self._changed, self._clock)

    def _write(self) -> None:
        own = self._source.current()
        domain = own.identity.trust_domain
        publish_bundle(self._bundles / f"{domain}.pem", own.bundles[domain].pem)
        write_identity(self._folder, own)
