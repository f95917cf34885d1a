"""Files that a source follows, and what it can be seen to do."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clock import SYSTEM
from tests.fakes import FakeClock, running
from tlsloader import BundlePaths, FileSource, Material, Paths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from clock import Clock
    from tests.forge import Forge, Svid

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
POLL = 5.0  # of sources that are followed by a clock of our own


@dataclass
class Followed:
    """A source whose publications and log records can be awaited."""

    source: FileSource
    clock: Clock
    seen: asyncio.Queue[Material] = field(default_factory=asyncio.Queue)
    records: asyncio.Queue[logging.LogRecord] = field(default_factory=asyncio.Queue)

    @property
    def hand(self) -> FakeClock:
        """Its clock, which is moved by hand (`polled`)."""
        assert isinstance(self.clock, FakeClock)
        return self.clock

    async def shows(self, svid: Svid, within: float = 5) -> None:
        """Return once *svid* is in use."""
        async with asyncio.timeout(within):
            while self.source.current().leaf_sha256 != svid.leaf_sha256:
                await self.seen.get()

    async def next(self, within: float = 5) -> Material:
        """Return the next generation."""
        async with asyncio.timeout(within):
            return await self.seen.get()

    async def keeps(self, reason: str, what: str = "identity") -> str:
        """Return the text of the next refusal, which must be for *reason*."""
        detail = await self.tells(f"{what} kept", reason=reason)
        return str(detail)

    async def tells(self, event: str, **fields: object) -> str:
        """Return the detail of the next record, which must be of *event*."""
        async with asyncio.timeout(5):
            record = await self.records.get()
        told = vars(record)
        assert (record.message, {name: told[name] for name in fields}) == (
            event,
            fields,
        )
        return str(told.get("detail"))

    async def look(self) -> None:
        """Let it look, and wait until it has."""
        await self.hand.advance(POLL)
        await self.hand.advance(0)


class _Kept(logging.Handler):
    def __init__(self, into: asyncio.Queue[logging.LogRecord]) -> None:
        super().__init__(logging.WARNING)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        record.message = record.getMessage()
        self._into.put_nowait(record)


@asynccontextmanager
async def following(
    paths: Paths,
    bundles: BundlePaths | Mapping[str, Path] | None = None,
    *,
    clock: Clock = SYSTEM,
    poll: float = 60,
    watch: bool = True,
) -> AsyncIterator[Followed]:
    """Follow *paths*; what has to be heard by inotify is not found by polling."""
    if not isinstance(bundles, BundlePaths):
        bundles = BundlePaths(bundles or {})
    source = await FileSource.load(paths, bundles, clock=clock, wait=0)
    followed = Followed(source, clock)
    source.subscribe(followed.seen.put_nowait)
    handler, logger = _Kept(followed.records), logging.getLogger("tlsloader")
    logger.addHandler(handler)
    try:
        async with running(source.follow(poll=poll, watch=watch)):
            yield followed
    finally:
        logger.removeHandler(handler)


@asynccontextmanager
async def polled(
    paths: Paths, forge: Forge, bundles: BundlePaths | None = None
) -> AsyncIterator[Followed]:
    """Follow *paths* by looks of which the test decides the moment (`look`)."""
    clock = FakeClock(forge.now)
    async with following(
        paths, bundles, clock=clock, poll=POLL, watch=False
    ) as followed:
        await clock.advance(0)  # the first look is over
        yield followed


def path_of(paths: Paths, part: str) -> Path:
    """Return the path of one *part* of an identity: key, chain or bundle."""
    found: Path = getattr(paths, part)
    return found


def in_place(path: Path, data: bytes) -> None:
    """Write as spiffe-helper does: truncate, then write."""
    with path.open("wb") as file:
        file.write(data)


def drain(records: asyncio.Queue[Any]) -> None:
    """Forget what was told so far."""
    while not records.empty():
        records.get_nowait()
