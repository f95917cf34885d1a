"""One authority after another: nobody is given what others do not know yet."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from authority import Authority, CAFiles, CAIssuer, Issued, NotIssuableError
from authority._succession import Succession
from tests.authority.test_cafiles import written
from tests.fakes import FakeClock, running, until
from tests.forge import Forge
from tlsloader import Material, MaterialError, SpiffeID

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN = "sandbox.cluster.local"
SANDBOX = SpiffeID(DOMAIN, "/ns/default/sandbox/sbx-a")
HOUR, LEAD = timedelta(hours=1), timedelta(seconds=10)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def authority(clock: FakeClock) -> Authority:
    return Authority.create(DOMAIN, now=clock.now())


def roots(*authorities: Authority) -> set[x509.Certificate]:
    return {each.certificate for each in authorities}


def published(bundle: bytes) -> set[x509.Certificate]:
    return set(x509.load_pem_x509_certificates(bundle))


def test_an_authority_succeeds_another(clock: FakeClock) -> None:
    """Published, then signing; the old root stays until its last leaf has ended."""
    old, new, start = authority(clock), authority(clock), clock.now()
    line = Succession(old, lead=LEAD, life=HOUR, now=start)
    assert line.signer(start) is old
    line.follow(new, start)
    for moment, signs, known in (
        (timedelta(), old, roots(old, new)),
        (timedelta(seconds=9.9), old, roots(old, new)),
        (LEAD, new, roots(old, new)),
        (LEAD + HOUR - timedelta(seconds=1), new, roots(old, new)),
        (LEAD + HOUR, new, roots(new)),
    ):
        assert line.signer(start + moment) is signs
        assert published(line.bundle(start + moment)) == known


def test_the_first_one_signs_at_once(clock: FakeClock) -> None:
    """Where nobody knows any root yet, nobody has to be waited for."""
    first, now = authority(clock), clock.now()
    line = Succession(first, lead=LEAD, life=HOUR, now=now)
    assert line.signer(now) is first
    assert line.wait(now) is None


def test_what_an_earlier_process_published_stays(clock: FakeClock) -> None:
    """Sandboxes outlive it with its identities; our own root is told first."""
    old, new, now = authority(clock), authority(clock), clock.now()
    line = Succession(new, published=[old.certificate], lead=LEAD, life=HOUR, now=now)
    assert (line.signer(now), line.wait(now)) == (None, LEAD)
    assert published(line.bundle(now)) == roots(old, new)
    assert line.signer(now + LEAD) is new
    assert published(line.bundle(now + HOUR)) == roots(new)


def test_a_restart_with_the_same_one_waits_for_nothing(clock: FakeClock) -> None:
    """What signed before is known, and never leaves."""
    same, now = authority(clock), clock.now()
    line = Succession(same, published=[same.certificate], lead=LEAD, life=HOUR, now=now)
    assert line.signer(now) is same
    assert published(line.bundle(now + 2 * HOUR)) == roots(same)


def test_one_that_is_replaced_before_its_turn_never_signs(clock: FakeClock) -> None:
    """The third is published for as long as the second would have been."""
    first, second, third = (authority(clock) for _ in range(3))
    start = clock.now()
    line = Succession(first, lead=LEAD, life=HOUR, now=start)
    line.follow(second, start)
    line.follow(third, start + LEAD / 2)
    assert line.signer(start + LEAD) is first
    assert line.signer(start + 1.5 * LEAD) is third
    assert published(line.bundle(start + 1.5 * LEAD)) == roots(first, third)


def test_an_intermediate_is_changed_at_once(tmp_path: Path) -> None:
    """Its root is known already; nobody has to learn anything."""
    forge = Forge(DOMAIN)

    def signing(name: str) -> Authority:
        (tmp_path / name).mkdir()
        lower = forge.signer(forge.root, subject=name)
        files = written(tmp_path / name, [lower], [forge.root])
        return files.read().authority(DOMAIN, now=forge.now)

    one, two = signing("one"), signing("two")
    line = Succession(one, lead=LEAD, life=HOUR, now=forge.now)
    line.follow(two, forge.now)
    assert line.signer(forge.now) is two


def signed_by(issued: Issued, bundle: bytes, clock: FakeClock) -> bool:
    """Say whether *issued* is good for those who know *bundle*."""
    try:
        Material.parse(
            key=issued.key, chain=issued.chain, bundle=bundle, now=clock.now()
        )
    except MaterialError:
        return False
    return True


class Followed:
    """An issuer of files, and what it told of."""

    def __init__(self, files: CAFiles, clock: FakeClock) -> None:
        texts = files.read()
        self.issuer = CAIssuer(
            texts.authority(DOMAIN, now=clock.now()),
            names=lambda: SANDBOX,
            life=HOUR,
            texts=texts,
            clock=clock,
        )
        self.told: list[SpiffeID | None] = []
        self.issuer.subscribe(self.told.append)


async def test_follows_its_files(clock: FakeClock, tmp_path: Path) -> None:
    """A new authority is told of, then signs; all are told again when it does."""
    old, new = Forge(DOMAIN, clock.now()), Forge(DOMAIN, clock.now())
    followed = Followed(written(tmp_path, [old.root]), clock)
    issuer = followed.issuer
    assert signed_by(await issuer.issue(SANDBOX), old.bundle, clock)
    async with running(issuer.run()):
        await clock.advance(0)
        assert followed.told == []
        written(tmp_path, [new.root])
        await clock.advance(5)
        await until(lambda: followed.told)
        assert published(issuer.bundle) == {
            old.root.certificate,
            new.root.certificate,
        }
        assert signed_by(await issuer.issue(SANDBOX), old.bundle, clock)
        await clock.advance(5)
        await clock.advance(5)
        await until(lambda: len(followed.told) == 2)
        assert signed_by(await issuer.issue(SANDBOX), new.bundle, clock)
        await clock.advance(HOUR.total_seconds())
        await until(lambda: len(followed.told) == 3)
        assert published(issuer.bundle) == {new.root.certificate}
    assert followed.told == [None] * 3


async def test_bad_files_change_nothing(
    clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a rotation is waited out; told once in the log, counted, and forgotten."""
    old, new = Forge(DOMAIN, clock.now()), Forge(DOMAIN, clock.now())
    files = written(tmp_path, [old.root])
    followed = Followed(files, clock)
    async with running(followed.issuer.run()):
        await clock.advance(0)
        files.certificate.write_bytes(new.bundle)
        for _ in range(3):
            await clock.advance(5)
            await clock.advance(0)
        assert followed.issuer.faults == {"key_mismatch": 1}
        assert followed.told == []
        assert signed_by(await followed.issuer.issue(SANDBOX), old.bundle, clock)
        written(tmp_path, [new.root])
        await clock.advance(5)
        await until(lambda: followed.told)
    assert [each.message for each in caplog.records].count("authority kept") == 1
    assert "PRIVATE" not in caplog.text


async def test_waits_for_its_own_root_to_be_known(clock: FakeClock) -> None:
    """After a restart with another authority the first identity comes a little late."""
    old, new = authority(clock), authority(clock)
    issuer = CAIssuer(
        new,
        names=lambda: SANDBOX,
        life=HOUR,
        published=[old.certificate],
        clock=clock,
    )
    async with asyncio.TaskGroup() as tasks:
        issuing = tasks.create_task(issuer.issue(SANDBOX))
        await clock.advance(LEAD.total_seconds())
    assert signed_by(issuing.result(), new.bundle, clock)


async def test_gives_its_own_domain_only(clock: FakeClock) -> None:
    """An issuer of sandboxes cannot be asked for the Router."""
    issuer = CAIssuer(authority(clock), names=lambda: SANDBOX, life=HOUR, clock=clock)
    assert issuer.reserve() == SANDBOX
    router = SpiffeID("cluster.local", "/ns/agentcube-system/sa/agentcube-router")
    with pytest.raises(NotIssuableError):
        await issuer.issue(router)
