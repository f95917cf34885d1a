from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import pytest

from authority import Authority, AuthorityError, Issued
from tests.workloadmanager.engine import until
from tlsloader import SpiffeID
from workloadmanager import _ids
from workloadmanager._errors import RenewalError
from workloadmanager._identities import Handover, Identities

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.fakes import FakeClock

HOUR = timedelta(hours=1)
DOMAIN = "sandbox.cluster.local"
PREFIX = f"spiffe://{DOMAIN}/ns/agentcube-system/sandbox/"


class Issuing:
    """Signs with an authority; `held` gives the last one again, `fault` nothing."""

    trust_domain = DOMAIN
    ready: int | None = None

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.authority = Authority.create(DOMAIN, now=clock.now())
        self.changed: list[Callable[[SpiffeID | None], None]] = []
        self.adopted: list[SpiffeID] = []
        self.revoked: list[SpiffeID] = []
        self.faults: Counter[str] = Counter()
        self.held = False
        self.fault: Exception | None = None
        self.last: dict[SpiffeID, Issued] = {}

    @property
    def bundle(self) -> bytes:
        return self.authority.bundle

    def subscribe(self, changed: Callable[[SpiffeID | None], None]) -> None:
        self.changed.append(changed)

    def reserve(self) -> SpiffeID:
        return SpiffeID.parse(PREFIX + _ids.sandbox_id())

    def adopt(self, identity: SpiffeID) -> None:
        self.adopted.append(identity)

    async def issue(self, identity: SpiffeID) -> Issued:
        if self.fault is not None:
            raise self.fault
        if not self.held or identity not in self.last:
            self.last[identity] = self.authority.issue(
                identity, life=HOUR, now=self.clock.now()
            )
        return self.last[identity]

    def revoke(self, identity: SpiffeID) -> None:
        self.revoked.append(identity)

    def tell(self, identity: SpiffeID | None) -> None:
        for each in self.changed:
            each(identity)

    async def run(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError


class Taking:
    """A sandbox that takes what it is handed, when it is let."""

    def __init__(self) -> None:
        self.taken: list[Handover] = []
        self.fault: Exception | None = None
        self.allowed = asyncio.Event()
        self.allowed.set()

    async def deliver(self, given: Handover) -> None:
        await self.allowed.wait()
        if self.fault is not None:
            raise self.fault
        self.taken.append(given)


class House:
    """Identities by a fake issuer, and the Router's roots as they are told."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.issuer = Issuing(clock)
        self.roots: Mapping[str, bytes] = {"cluster.local": b"roots"}
        self.identities = Identities(
            self.issuer,
            namespace="agentcube-system",
            foreign=lambda: self.roots,
            clock=clock,
        )

    async def kept(self, sandbox_id: str = "sbx-a") -> Taking:
        """Make a sandbox that has its first identity."""
        sandbox = Taking()
        given = await self.identities.issue(sandbox_id)
        self.identities.keep(sandbox_id, given, sandbox.deliver)
        return sandbox

    @asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        async with self.identities.running():
            await self.clock.advance(0)  # it sleeps
            yield


@pytest.fixture
def house(clock: FakeClock) -> House:
    return House(clock)


async def test_a_sandbox_gets_an_identity_of_its_own(house: House) -> None:
    """Named by its id, with all that it judges itself and the Router by."""
    sandbox_id = house.identities.reserve()
    assert _ids.is_sandbox_id(sandbox_id)
    given = await house.identities.issue(sandbox_id)
    assert str(given.issued.identity) == PREFIX + sandbox_id
    assert given.issued.identity == house.identities.name(sandbox_id)
    assert (given.bundle, given.foreign) == (house.issuer.bundle, house.roots)
    assert "PRIVATE" not in repr(given)


async def test_it_is_renewed_before_half_of_its_life(
    house: House, clock: FakeClock
) -> None:
    """Again and again, with time left for another attempt, until it is gone."""
    sandbox = await house.kept()
    async with house.renewing():
        for count in range(3):
            await clock.advance(0.39 * HOUR.total_seconds())
            await clock.advance(0)
            assert len(sandbox.taken) == count
            await clock.advance(0.02 * HOUR.total_seconds())
            await until(lambda count=count: len(sandbox.taken) == count + 1)  # type: ignore[misc]
            await until(lambda: len(house.identities._timers) == 1)
        house.identities.drop("sbx-a")
        assert len(house.identities._timers) == 0
    assert len({each.issued.leaf_sha256 for each in sandbox.taken}) == 3
    assert house.identities.renewals == 3


async def test_a_failed_renewal_is_tried_again_soon(
    house: House, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Told by its reason, in log and figures; the sandbox takes the next one."""
    sandbox = await house.kept()
    sandbox.fault = RenewalError("key_mismatch", "it does not like it")
    async with house.renewing():
        await clock.advance(0.4 * HOUR.total_seconds())
        await until(lambda: house.identities.failures)
        await until(lambda: len(house.identities._timers) == 1)
        sandbox.fault = None
        await clock.advance(5)
        await until(lambda: sandbox.taken)
    assert house.identities.failures == {"key_mismatch": 1}
    assert "identity not renewed" in caplog.messages


async def test_without_an_issuer_sandboxes_live_on(
    house: House, clock: FakeClock
) -> None:
    """A new one is refused with a reason, a live one renewed once it is back."""
    sandbox = await house.kept()
    house.issuer.fault = AuthorityError("agent_unavailable", "gone", hint="start it")
    with pytest.raises(AuthorityError):
        await house.identities.issue("sbx-b")
    async with house.renewing():
        await clock.advance(0.4 * HOUR.total_seconds())
        await until(lambda: house.identities.failures["agent_unavailable"])
        house.issuer.fault = None
        await clock.advance(5)
        await until(lambda: sandbox.taken)


async def test_adopted_sandboxes_are_renewed_at_once(house: House) -> None:
    """Nobody knows how old the identity is that an earlier process handed over."""
    sandbox, other = Taking(), SpiffeID.parse(f"spiffe://{DOMAIN}/ns/old/sandbox/sbx-a")
    house.identities.resume("sbx-a", other, sandbox.deliver)
    assert house.issuer.adopted == [other]
    assert house.identities.first_end is None
    async with house.renewing():
        await until(lambda: sandbox.taken)
    assert sandbox.taken[0].issued.identity == other
    assert house.identities.first_end == sandbox.taken[0].issued.not_after


async def test_what_is_not_newer_is_not_handed_over(
    house: House, clock: FakeClock
) -> None:
    """An issuer that renews by itself is asked again, and heard when it has it."""
    house.issuer.held = True
    sandbox = await house.kept()
    async with house.renewing():
        await clock.advance(0.4 * HOUR.total_seconds())
        await until(lambda: len(house.identities._timers) == 1)
        assert not sandbox.taken
        house.issuer.held = False
        house.issuer.tell(house.identities.name("sbx-a"))
        await until(lambda: sandbox.taken)
        house.issuer.tell(house.identities.name("sbx-b"))
        assert len(sandbox.taken) == 1


async def test_new_roots_reach_every_sandbox(house: House) -> None:
    """The Router's, when they differ; the sandboxes' own, when the issuer says so."""
    sandboxes = [await house.kept(f"sbx-{name}") for name in "abc"]
    async with house.renewing():
        house.identities.refresh()  # nothing has changed
        house.roots = {"cluster.local": b"other roots"}
        house.identities.refresh()
        await until(lambda: all(len(each.taken) == 1 for each in sandboxes))
        house.issuer.tell(None)
        await until(lambda: all(len(each.taken) == 2 for each in sandboxes))
    assert {each.taken[0].foreign["cluster.local"] for each in sandboxes} == {
        b"other roots"
    }


async def test_one_that_hangs_holds_nobody_up(house: House) -> None:
    """Renewals run beside each other, one at a time in each sandbox."""
    slow, quick = await house.kept("sbx-a"), await house.kept("sbx-b")
    slow.allowed.clear()
    async with house.renewing():
        house.issuer.tell(None)
        await until(lambda: quick.taken)
        house.issuer.tell(None)
        await until(lambda: len(quick.taken) == 2)
        assert not slow.taken
        slow.allowed.set()
        await until(lambda: len(slow.taken) == 2)


async def test_nothing_is_given_once_a_sandbox_is_dropped(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """It is revoked at its issuer, and a renewal under way is the last."""
    sandbox = await house.kept()
    sandbox.allowed.clear()
    async with house.renewing():
        house.issuer.tell(None)
        await until(house.identities._holders["sbx-a"].busy.locked)
        house.identities.drop("sbx-a")
        sandbox.fault = RenewalError("unavailable", "it has ended")
        sandbox.allowed.set()
        house.issuer.tell(None)
    assert house.issuer.revoked == [house.identities.name("sbx-a")]
    assert len(house.identities._timers) == 0
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
