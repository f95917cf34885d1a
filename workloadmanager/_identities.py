"""The sandboxes' own identities: handed over, never written down, renewed in time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from clock import SYSTEM, Clock
from workloadmanager._ids import identity_of
from workloadmanager._timers import Timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from datetime import datetime

    from authority import Issued, Issuer
    from tlsloader import SpiffeID

    Deliver = Callable[["Handover"], Awaitable[None]]

__all__ = ["Handover", "Identities"]

# Parts of a life: half of it is the latest, and the first attempt may fail.
_RENEWED: Final = 0.4
_RETRIED: Final = 0.05
_SOONEST, _LATEST = timedelta(seconds=0.5), timedelta(seconds=5)
_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Handover:
    """All that a sandbox proves itself, and judges the Router, by.

    ``bundle`` holds the roots of the sandboxes' trust domain, ``foreign`` those of
    the Router's by its name; PEM.
    """

    issued: Issued
    bundle: bytes
    foreign: Mapping[str, bytes]

    @property
    def mark(self) -> tuple[Any, ...]:
        """What differs between two that differ; no secret is in it."""
        return self.issued.leaf_sha256, self.bundle, dict(self.foreign)


@dataclass(slots=True, eq=False)
class _Holder:
    """One sandbox that has its identity from us."""

    identity: SpiffeID
    deliver: Deliver
    mark: tuple[Any, ...] = ()
    not_after: datetime | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class Identities:
    """Gives each sandbox an X509-SVID, and a newer one as long as it lives.

    *foreign* tells the roots of the Router's trust domain; say `refresh` when they
    may have changed.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        namespace: str,
        foreign: Callable[[], Mapping[str, bytes]] = dict,
        clock: Clock = SYSTEM,
    ) -> None:
        self._issuer, self._namespace, self._clock = issuer, namespace, clock
        self._foreign, self._told = foreign, foreign()
        self._holders: dict[str, _Holder] = {}
        self._timers: Timers[str] = Timers(clock)
        self.renewals = 0
        self.failures: Counter[str] = Counter()
        issuer.subscribe(self._newer)

    @property
    def first_end(self) -> datetime | None:
        """When the first of the identities in use ends; ``None``: there is none."""
        ends = (each.not_after for each in tuple(self._holders.values()))
        return min((end for end in ends if end is not None), default=None)

    def name(self, sandbox_id: str) -> SpiffeID:
        """Return the one identity that this sandbox ever has."""
        return identity_of(self._issuer.trust_domain, self._namespace, sandbox_id)

    def reserve(self) -> str:
        """Return the id of the next sandbox: one whose identity can be had soonest."""
        return _last(self._issuer.reserve())

    async def issue(self, sandbox_id: str) -> Handover:
        """Return what a new sandbox is to be given.

        Raises:
            AuthorityError: nobody gives it an identity now.
        """
        return await self._handover(self.name(sandbox_id))

    def keep(self, sandbox_id: str, given: Handover, deliver: Deliver) -> None:
        """Go on with what *given* began, by *deliver*."""
        holder = _Holder(self.name(sandbox_id), deliver)
        self._holders[sandbox_id] = holder
        self._took(sandbox_id, holder, given)

    def resume(self, sandbox_id: str, identity: SpiffeID, deliver: Deliver) -> None:
        """Go on with what an earlier process began; at once: nobody knows its end."""
        self._issuer.adopt(identity)
        self._holders[sandbox_id] = _Holder(identity, deliver)
        self._timers.set(sandbox_id, self._clock.now())

    def drop(self, sandbox_id: str) -> None:
        """Give nothing to this sandbox any more, for ever."""
        holder = self._holders.pop(sandbox_id, None)
        self._timers.drop(sandbox_id)
        self._issuer.revoke(holder.identity if holder else self.name(sandbox_id))

    @property
    def ready(self) -> int | None:
        """How many new sandboxes can have one at once; ``None``: any number."""
        return self._issuer.ready

    @property
    def faults(self) -> Mapping[str, int]:
        """How often the issuer failed, by reason."""
        return self._issuer.faults

    def refresh(self) -> None:
        """Hand everything over anew if the Router's roots have changed."""
        if self._told != (told := self._foreign()):
            self._told = told
            self._newer(None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the issuer and renew each identity in time, while inside."""
        async with asyncio.TaskGroup() as tasks:
            jobs = [
                tasks.create_task(self._issuer.run()),
                tasks.create_task(self._renew_all()),
            ]
            try:
                yield
            finally:
                for job in jobs:
                    job.cancel()

    async def _renew_all(self) -> NoReturn:
        """Renew each identity before half of its life is over, until cancelled."""
        places = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            async for sandbox_id in self._timers.due():
                if sandbox_id in self._holders:
                    await places.acquire()
                    task = tasks.create_task(self._renew(sandbox_id))
                    task.add_done_callback(lambda _: places.release())
        raise AssertionError  # the timers never end

    async def _renew(self, sandbox_id: str) -> None:
        holder = self._holders.get(sandbox_id)
        if holder is None:
            return
        async with holder.busy:
            try:
                given = await self._handover(holder.identity)
                if given.mark == holder.mark:  # the issuer has no newer one yet
                    self._again(sandbox_id, holder)
                    return
                await holder.deliver(given)
            except Exception as error:  # noqa: BLE001  # tried again soon
                self._failed(sandbox_id, holder, error)
            else:
                self.renewals += 1
                self._took(sandbox_id, holder, given)

    async def _handover(self, identity: SpiffeID) -> Handover:
        issued = await self._issuer.issue(identity)
        return Handover(issued, self._issuer.bundle, self._foreign())

    def _took(self, sandbox_id: str, holder: _Holder, given: Handover) -> None:
        holder.mark, holder.not_after = given.mark, given.issued.not_after
        fields = {
            "sandbox_id": sandbox_id,
            "not_after": given.issued.not_after.isoformat(),
            "leaf_sha256": given.issued.leaf_sha256,
        }
        _log.info("identity handed over", extra=fields)
        left = given.issued.not_after - self._clock.now()
        self._set(sandbox_id, holder, max(left * _RENEWED, _SOONEST))

    def _failed(self, sandbox_id: str, holder: _Holder, error: Exception) -> None:
        if self._holders.get(sandbox_id) is not holder:
            return  # it has ended meanwhile
        reason = getattr(error, "reason", type(error).__name__)
        self.failures[reason] += 1
        fields = {"sandbox_id": sandbox_id, "reason": reason, "detail": str(error)}
        _log.warning("identity not renewed", extra=fields)
        self._again(sandbox_id, holder)

    def _again(self, sandbox_id: str, holder: _Holder) -> None:
        left = timedelta()
        if holder.not_after is not None:
            left = holder.not_after - self._clock.now()
        pause = min(max(left * _RETRIED, _SOONEST), _LATEST)
        self._set(sandbox_id, holder, pause)

    def _set(self, sandbox_id: str, holder: _Holder, wait: timedelta) -> None:
        if self._holders.get(sandbox_id) is holder:
            self._timers.set(sandbox_id, self._clock.now() + wait)

    def _newer(self, identity: SpiffeID | None) -> None:
        """Renew who has *identity*, or everybody, at once."""
        now = self._clock.now()
        if identity is None:
            for sandbox_id in self._holders:
                self._timers.set(sandbox_id, now)
        elif (sandbox_id := _last(identity)) in self._holders:
            self._timers.set(sandbox_id, now)


def _last(identity: SpiffeID) -> str:
    """Return the id of the sandbox that *identity* names."""
    return identity.path.rpartition("/")[2]
