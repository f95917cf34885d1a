"""Identities of sandboxes from SPIRE: entries made ahead, their SVIDs held ready.

An entry reaches its agent only after a while, so none is made when a sandbox is:
each slot of the pool is an entry whose identity nobody has yet, and whose SVID the
agent tells us, and goes on telling, by the Delegated Identity API. Whoever is next
gets that identity. Its entry is deleted when the sandbox is gone.

Apart from the rest of the room because it speaks gRPC.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, Self

from authority._errors import AuthorityError
from authority._slots import Slots
from authority._spire_agent import Agent, Pauses
from authority._spire_calls import Calls
from authority._spire_faults import Faults
from authority._spire_wire import entry_to_wire, id_from_wire, is_ours
from clock import SYSTEM

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from datetime import timedelta

    from authority._authority import Issued
    from authority._slots import Slot
    from clock import Clock
    from tlsloader import SpiffeID

__all__ = ["Spire", "SpireIssuer"]

_BATCH: Final = 16
_PATIENCE: Final = 12.0  # SPIRE's own defaults take up to ten
_LITTLE_PATIENCE: Final = 2.0  # when it is known to be gone
_FAREWELL: Final = 3.0
_LEFT: Final = 0.2  # of its life; with less no sandbox is begun


@dataclass(frozen=True, slots=True)
class Spire:
    """Where a SPIRE is, and which agent, or node alias, is the *parent* of entries.

    ``server`` and ``agent`` are gRPC targets: the server's socket, and the agent's
    admin socket. Entries below that parent are made by one process at a time.
    """

    server: str
    agent: str
    parent: SpiffeID


class SpireIssuer:
    """Gives identities of one trust domain as SPIRE issues them; see `Issuer`.

    Args:
        spire: where it is.
        trust_domain: whose identities it gives; the agent's own.
        names: tells a new identity each time.
        life: how long an SVID lives; in whole seconds, rounded up.
        spare: how many identities are made ahead.
        clock: what tells the time.
    """

    def __init__(  # noqa: PLR0913 -- as many as an issuer has to know
        self,
        spire: Spire,
        trust_domain: str,
        *,
        names: Callable[[], SpiffeID],
        life: timedelta,
        spare: int = 16,
        clock: Clock = SYSTEM,
    ) -> None:
        self.trust_domain = trust_domain
        self.bundle = b""
        self._parent, self._life, self._clock = spire.parent, life, clock
        self._calls = Calls(spire.server, spire.agent)
        self._faults, self._slots = Faults(), Slots(names, spare)
        self._followed: dict[SpiffeID, asyncio.Task[None]] = {}
        self._listeners: list[Callable[[SpiffeID | None], None]] = []
        self._agent = Agent(self._calls, trust_domain, self._faults, clock)
        self._work, self._came = asyncio.Event(), asyncio.Event()

    async def begin(self, *, wait: float = 30.0) -> Self:
        """Return this issuer once it knows the bundle of its trust domain.

        Raises:
            AuthorityError: no agent takes us for its delegate within *wait* seconds.
        """
        try:
            self.bundle = await self._agent.first_bundle(wait)
        except BaseException:
            await self._calls.aclose()
            raise
        return self

    @property
    def faults(self) -> Counter[str]:
        """See `Issuer`."""
        return self._faults.counted

    @property
    def ready(self) -> int:
        """See `Issuer`."""
        return self._slots.ready

    def subscribe(self, changed: Callable[[SpiffeID | None], None]) -> None:
        """See `Issuer`."""
        self._listeners.append(changed)

    def reserve(self) -> SpiffeID:
        """See `Issuer`: one made ahead, if one is left."""
        self._work.set()
        return self._slots.reserve().identity

    def adopt(self, identity: SpiffeID) -> None:
        """See `Issuer`; to be said before `run` deletes what is nobody's."""
        self._slots.claim(identity)
        self._work.set()

    async def issue(self, identity: SpiffeID) -> Issued:
        """See `Issuer`; waits some seconds for one that was not made ahead."""
        slot = self._slots.claim(identity)
        if slot.issued is None:
            self._work.set()
            await self._await(slot)
        if slot.issued is None:
            raise self._faults.current or _none_yet(identity)
        if slot.issued.not_after - self._clock.now() < self._life * _LEFT:
            raise self._faults.current or _not_renewed(identity)
        return slot.issued

    def revoke(self, identity: SpiffeID) -> None:
        """See `Issuer`; the entry is deleted as soon as the server takes that."""
        self._slots.drop(identity)
        if (task := self._followed.pop(identity, None)) is not None:
            task.cancel()
        self._work.set()

    async def run(self) -> NoReturn:
        """See `Issuer`; at the end nothing is left that was made ahead."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._agent.follow_bundle(self._take_bundle))
                await self._tend(tasks)
        finally:
            await self._say_farewell()
        raise AssertionError  # it tends for ever

    async def _await(self, slot: Slot) -> None:
        """Return when the first SVID of *slot* has come, or after some seconds."""
        patience = _LITTLE_PATIENCE if self._faults.current else _PATIENCE
        try:
            async with asyncio.timeout(patience):
                while slot.issued is None:
                    await self._came.wait()
        except TimeoutError:
            return

    async def _tend(self, tasks: asyncio.TaskGroup) -> NoReturn:
        """Make and delete entries as there is need."""
        swept, pauses = False, Pauses(self._clock, longest=1.0)
        while True:
            self._work.clear()
            try:
                if not swept:
                    await self._sweep()
                swept = True
                while await self._enter(tasks) or await self._delete():
                    pauses.reset()
            except AuthorityError as error:
                swept = False  # nobody knows what of it was done
                self._faults.note(error)
                await pauses.rest()
            else:
                self._faults.clear("server")
                await self._work.wait()

    async def _sweep(self) -> None:
        """Find entries of ours that are nobody's any more."""
        for entry in await self._calls.entries(self._parent):
            if is_ours(entry):
                self._slots.found(entry.id, id_from_wire(entry.spiffe_id))

    async def _enter(self, tasks: asyncio.TaskGroup) -> bool:
        """Make some entries that are wanted; ``False``: there are none."""
        slots = self._slots.wanted(_BATCH)
        if slots:
            entries = [
                entry_to_wire(each.identity, self._parent, self._life) for each in slots
            ]
            numbers = await self._calls.create(entries)
            for slot, number in zip(slots, numbers, strict=True):
                if self._slots.entered(slot, number):
                    task = tasks.create_task(self._follow(slot))
                    self._followed[slot.identity] = task
        return bool(slots)

    async def _delete(self) -> bool:
        """Delete some entries that are to go; ``False``: there are none."""
        if doomed := self._slots.doomed(_BATCH):
            self._slots.deleted(await self._calls.delete(doomed))
        return bool(doomed)

    async def _say_farewell(self) -> None:
        """Leave the entries of those who live on, and no other."""
        for slot in self._slots:
            if not slot.taken:
                self._slots.drop(slot.identity)
        try:
            async with asyncio.timeout(_FAREWELL):
                while await self._delete():
                    pass
        except (AuthorityError, TimeoutError):
            return  # the next process finds them
        finally:
            await self._calls.aclose()

    async def _follow(self, slot: Slot) -> None:
        """Take each SVID of *slot*."""

        def heard(fresh: Issued | None) -> None:
            if fresh is not None:
                self._take(slot, fresh)
            elif slot.issued is not None and not slot.taken:
                self.revoke(slot.identity)  # somebody deleted its entry: use another

        await self._agent.follow(slot.identity, heard)

    def _take_bundle(self, bundle: bytes) -> None:
        if self.bundle != bundle:
            self.bundle = bundle
            self._tell(None)

    def _take(self, slot: Slot, fresh: Issued) -> None:
        slot.issued = fresh
        self._came.set()
        self._came = asyncio.Event()
        if slot.taken:
            self._tell(slot.identity)

    def _tell(self, identity: SpiffeID | None) -> None:
        for listener in self._listeners:
            listener(identity)


def _none_yet(identity: SpiffeID) -> AuthorityError:
    text = f"SPIRE has not issued {identity} within {_PATIENCE:g} s"
    hint = "have more made ahead; see that server and agent answer, and synchronise"
    return AuthorityError("pool_empty", text, hint=hint)


def _not_renewed(identity: SpiffeID) -> AuthorityError:
    text = f"SPIRE does not renew {identity} any more"
    hint = "was its entry deleted by somebody else?"
    return AuthorityError("withdrawn", text, hint=hint)
