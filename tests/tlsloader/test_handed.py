"""An identity that is handed over: judged as one, published as one, or kept."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeClock, running
from tests.forge import Forge, Svid
from tlsloader import Handed, HandedSource, Material, MaterialError

if TYPE_CHECKING:
    from collections.abc import Mapping

SANDBOX = "spiffe://sandbox.cluster.local/ns/default/sandbox/sbx-a"
OTHER = "spiffe://sandbox.cluster.local/ns/default/sandbox/sbx-b"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sandboxes(clock: FakeClock) -> Forge:
    return Forge("sandbox.cluster.local", clock.now())


@pytest.fixture
def mesh(clock: FakeClock) -> Forge:
    return Forge("cluster.local", clock.now())


def handed(
    svid: Svid, forge: Forge, foreign: Mapping[str, bytes] | None = None
) -> Handed:
    return Handed(svid.key, svid.chain, forge.bundle, foreign or {})


async def begun(sandboxes: Forge, clock: FakeClock) -> HandedSource:
    return await HandedSource.begin(
        handed(sandboxes.svid(SANDBOX), sandboxes), clock=clock
    )


async def test_takes_the_next_one(
    sandboxes: Forge, mesh: Forge, clock: FakeClock
) -> None:
    """Key, chain and every bundle change in one step, and subscribers hear of it."""
    source = await begun(sandboxes, clock)
    seen: list[Material] = []
    source.subscribe(seen.append)
    svid = sandboxes.svid(SANDBOX)
    foreign = {"cluster.local": mesh.bundle}
    taken = await source.take(handed(svid, sandboxes, foreign))
    assert source.current() is taken
    assert seen == [taken]
    assert (taken.generation, taken.leaf_sha256) == (2, svid.leaf_sha256)
    assert taken.bundles["cluster.local"] == mesh.trust
    assert (source.failures, source.usable) == (0, True)


async def test_new_bundles_alone_are_a_generation(
    sandboxes: Forge, mesh: Forge, clock: FakeClock
) -> None:
    """The services' roots come by the same way, and a withdrawn bundle goes."""
    svid = sandboxes.svid(SANDBOX)
    source = await HandedSource.begin(handed(svid, sandboxes), clock=clock)
    foreign = {"cluster.local": mesh.bundle}
    await source.take(handed(svid, sandboxes, foreign))
    assert (source.generation, len(source.current().bundles)) == (2, 2)
    await source.take(handed(svid, sandboxes))
    assert (source.generation, len(source.current().bundles)) == (3, 1)


async def test_the_same_once_more_changes_nothing(
    sandboxes: Forge, clock: FakeClock
) -> None:
    """Connections do not drain because a message was sent twice."""
    given = handed(sandboxes.svid(SANDBOX), sandboxes)
    source = await HandedSource.begin(given, clock=clock)
    assert (await source.take(given)).generation == 1


async def test_keeps_the_last_good_one(
    sandboxes: Forge, mesh: Forge, clock: FakeClock
) -> None:
    """Whatever is wrong is told to whom handed it over, and counted; nothing else."""
    source = await begun(sandboxes, clock)
    first = source.current()
    good = handed(sandboxes.svid(SANDBOX), sandboxes)
    other = Forge("sandbox.cluster.local", clock.now())
    bad = {
        "key_mismatch": replace(good, key=sandboxes.svid(SANDBOX).key),
        "empty_file": replace(good, key=b""),
        "half_written": replace(good, chain=good.chain[:-20]),
        "untrusted_chain": replace(good, bundle=other.bundle),
        "expired": handed(sandboxes.svid(SANDBOX, life=-1), sandboxes),
        "own_domain_twice": replace(
            good, foreign={"sandbox.cluster.local": mesh.bundle}
        ),
        "other_identity": handed(sandboxes.svid(OTHER), sandboxes),
    }
    for reason, each in bad.items():
        with pytest.raises(MaterialError) as caught:
            await source.take(each)
        assert caught.value.reason == reason
        assert source.refusals[reason] == 1
        assert source.current() is first
    await source.take(good)
    assert source.generation == 2


async def test_a_first_one_that_is_no_good_is_none(
    sandboxes: Forge, clock: FakeClock
) -> None:
    """Nothing is served before there is a valid identity."""
    with pytest.raises(MaterialError, match="expired"):
        await HandedSource.begin(
            handed(sandboxes.svid(SANDBOX, life=-1), sandboxes), clock=clock
        )


async def test_says_once_that_it_has_expired(
    sandboxes: Forge, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody renewed it: an error in the log, and whoever comes then mends it."""
    source = await begun(sandboxes, clock)
    with caplog.at_level(logging.ERROR, "tlsloader"):
        async with running(source.follow(look=1800)):
            await clock.advance(1800)
            await clock.advance(0)
            assert not caplog.messages
            for _ in range(3):
                await clock.advance(1800)
                await clock.advance(0)
        assert caplog.messages == ["identity expired"]
    assert not source.usable
    sandboxes.now = clock.now()
    await source.take(handed(sandboxes.svid(SANDBOX), sandboxes))
    assert source.usable


def test_shows_no_key() -> None:
    """What reaches a log gives no key away."""
    assert "secret" not in repr(Handed(b"secret", b"", b"", {}))


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_anything_else_is_refused_in_words(
    key: bytes, chain: bytes, bundle: bytes
) -> None:
    """No bytes lead to anything but a reason."""
    with pytest.raises(MaterialError) as caught:
        Handed(key, chain, bundle, {}).judged(now=FakeClock().now())
    assert caught.value.reason
