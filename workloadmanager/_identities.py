"""The sandboxes' own identities: made with them, renewed at half of their life."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from authority import publish_bundle, write_identity
from clock import SYSTEM, Clock
from tlsloader import SpiffeID
from workloadmanager._timers import Timers

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from authority import Authority

__all__ = ["Identities"]

_SOON = timedelta(seconds=5)

_log = logging.getLogger(__name__)


class Identities:
    """Issues an X509-SVID per sandbox into its folder, as long as it lives."""

    def __init__(
        self,
        authority: Authority,
        *,
        namespace: str,
        life: timedelta,
        clock: Clock = SYSTEM,
    ) -> None:
        self._authority, self._namespace, self._life = authority, namespace, life
        self._clock = clock
        self._folders: dict[str, Path] = {}
        self._writing: dict[str, asyncio.Future[datetime]] = {}
        self._timers: Timers[str] = Timers(clock)

    def name(self, sandbox_id: str) -> SpiffeID:
        """Return the one identity that this sandbox ever has."""
        domain = self._authority.trust_domain
        return SpiffeID.parse(
            f"spiffe://{domain}/ns/{self._namespace}/sandbox/{sandbox_id}"
        )

    async def publish(self, path: Path) -> None:
        """Put the bundle of the sandboxes' trust domain at *path*."""
        await asyncio.to_thread(publish_bundle, path, self._authority.bundle)

    async def issue(self, sandbox_id: str, folder: Path) -> None:
        """Put a fresh identity into *folder*, and go on renewing it there."""
        self._folders[sandbox_id] = folder
        now = self._clock.now()
        end = await asyncio.shield(self._begin_writing(sandbox_id, folder, now))
        if sandbox_id in self._folders:
            self._timers.set(sandbox_id, now + (end - now) / 2)

    def resume(self, sandbox_id: str, folder: Path) -> None:
        """Go on renewing what an earlier process issued; begin at once."""
        self._folders[sandbox_id] = folder
        self._timers.set(sandbox_id, self._clock.now())

    async def drop(self, sandbox_id: str) -> None:
        """Renew no more; from now on nothing is written into its folder."""
        self._folders.pop(sandbox_id, None)
        self._timers.drop(sandbox_id)
        if writing := self._writing.get(sandbox_id):
            await asyncio.wait([writing])

    async def renew(self) -> NoReturn:
        """Renew each identity at half of its life, until cancelled."""
        async for sandbox_id in self._timers.due():
            folder = self._folders.get(sandbox_id)
            if folder is None:
                continue
            try:
                await self.issue(sandbox_id, folder)
            except Exception:  # noqa: BLE001  # tried again soon
                if sandbox_id in self._folders:
                    _log.exception("not renewed", extra={"sandbox_id": sandbox_id})
                    self._timers.set(sandbox_id, self._clock.now() + _SOON)
        raise AssertionError  # the timers never end

    def _begin_writing(
        self, sandbox_id: str, folder: Path, now: datetime
    ) -> asyncio.Future[datetime]:
        # A thread goes on when its caller is cancelled, and makes the folder again if
        # that is removed meanwhile: `drop` has to know of it.
        work = asyncio.to_thread(self._write, sandbox_id, folder, now)
        writing = self._writing[sandbox_id] = asyncio.ensure_future(work)
        writing.add_done_callback(lambda _: self._writing.pop(sandbox_id, None))
        return writing

    def _write(self, sandbox_id: str, folder: Path, now: datetime) -> datetime:
        issued = self._authority.issue(self.name(sandbox_id), life=self._life, now=now)
        write_identity(folder, issued)
        return issued.not_after
