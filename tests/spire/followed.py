"""A source whose publications can be awaited."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.fakes import until
from tlsloader import FileSource, Material, SpiffeID
from tlsloader.workload import WorkloadAPISource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.spire.spire import Spire


@dataclass
class Followed:
    source: FileSource | WorkloadAPISource
    seen: asyncio.Queue[Material] = field(default_factory=asyncio.Queue)

    async def next(
        self, wanted: Callable[[Material], object] = lambda _: True, within: float = 30
    ) -> Material:
        """Return the next generation that is as *wanted*."""
        async with asyncio.timeout(within):
            while not wanted(material := await self.seen.get()):
                pass
            return material

    async def refuses(self, reason: str, within: float = 5) -> None:
        async with asyncio.timeout(within):
            await until(lambda: self.source.refusals[reason])


@asynccontextmanager
async def followed(source: FileSource | WorkloadAPISource) -> AsyncIterator[Followed]:
    """Follow *source* while the block runs."""
    found = Followed(source)
    source.subscribe(found.seen.put_nowait)
    job = asyncio.create_task(source.follow())  # noqa: TID251 -- ended below
    try:
        yield found
    finally:
        job.cancel()
        await asyncio.wait([job])


@asynccontextmanager
async def following(spire: Spire, identity: str) -> AsyncIterator[Followed]:
    """Be *identity* by the Workload API, in this very process."""
    source = await WorkloadAPISource.load(
        spire.endpoint, spiffe_id=SpiffeID.parse(identity)
    )
    async with followed(source) as found:
        yield found
