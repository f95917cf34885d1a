"""An identity that somebody hands over, and goes on handing over before it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, Self

from clock import SYSTEM
from tlsloader._errors import MaterialError
from tlsloader._kept import KeptSource
from tlsloader._material import Material

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from clock import Clock

__all__ = ["Handed", "HandedSource"]


@dataclass(frozen=True, slots=True)
class Handed:
    """An identity as it came, not judged yet; everything is PEM text.

    ``bundle`` holds the roots of our own trust domain, ``foreign`` those of others
    by their names.
    """

    key: bytes = field(repr=False)
    chain: bytes
    bundle: bytes
    foreign: Mapping[str, bytes]

    def judged(self, *, now: datetime, generation: int = 1) -> Material:
        """Check it against every rule about our own credential.

        Raises:
            MaterialError: it breaks one.
        """
        return Material.parse(
            key=self.key,
            chain=self.chain,
            bundle=self.bundle,
            foreign=self.foreign,
            now=now,
            generation=generation,
        )


class HandedSource(KeptSource):
    """The newest good identity that was handed over, always of one and the same ID."""

    kind = "handed"

    def __init__(self, first: Material, clock: Clock = SYSTEM) -> None:
        super().__init__(first, clock)
        self._taking = asyncio.Lock()

    @classmethod
    async def begin(cls, handed: Handed, *, clock: Clock = SYSTEM) -> Self:
        """Return a source that holds *handed* as its first generation.

        Raises:
            MaterialError: it is no usable identity.
        """
        first = await asyncio.to_thread(handed.judged, now=clock.now())
        return cls(first, clock)

    async def take(self, handed: Handed) -> Material:
        """Use *handed* from now on and return it; the same once more changes nothing.

        Raises:
            MaterialError: it is no usable identity, or not ours; the last good one
                stays in use.
        """
        async with self._taking:
            try:
                fresh = await asyncio.to_thread(
                    handed.judged,
                    now=self._clock.now(),
                    generation=self.generation + 1,
                )
                self._require_own(fresh)
            except MaterialError as error:
                self._count(error)
                raise
            if fresh != self._material:
                self._publish(fresh)
            return self._material

    async def follow(self, *, look: float = 1.0) -> NoReturn:
        """Say once when the last good identity has expired; until cancelled."""
        while True:
            self._tell_expiry()
            await self._clock.sleep(look)

    def _require_own(self, fresh: Material) -> None:
        own = self._material.identity
        if fresh.identity != own:
            text = f"it is {fresh.identity}, and we are {own}; hand it to its owner"
            raise MaterialError("other_identity", text)
