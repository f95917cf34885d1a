"""Keys are published before they sign, and stay until their last token is over."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from auth import KeysError, KeySet, PublicKeys, Signer, SigningKeys, Verifier
from auth._jwk import PrivateKey, PublicKey, thumbprint
from tests.auth.conftest import ALICE, SANDBOX, SESSION
from tests.fakes import running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.auth.conftest import Files
    from tests.fakes import FakeClock

POLL = 5
HOUR = 3600


async def tick(clock: FakeClock, seconds: float = POLL, *, sleepers: int = 1) -> None:
    """Move time, and return when all *sleepers* have done their work and sleep."""
    await clock.advance(seconds)
    async with clock._arrived:
        await clock._arrived.wait_for(lambda: len(clock._sleepers) >= sleepers)


async def test_the_first_key_signs_at_once(files: Files) -> None:
    """Nobody can hold an older set of keys when there never was one."""
    keys = await files.load()
    assert files.published() == [keys.signing.kid]


@pytest.mark.parametrize("name", ["private", "public"])
async def test_rights_of_the_files(files: Files, name: str) -> None:
    """The keys that sign are for their owner; those that verify are for all."""
    os.umask(os.umask(0o022))
    await files.load()
    mode = stat.S_IMODE(getattr(files, name).stat().st_mode)
    assert mode == {"private": 0o600, "public": 0o644}[name]
    assert "d" not in json.loads(files.public.read_text())["keys"][0]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
async def test_a_private_file_that_others_may_read_is_refused(
    files: Files, mode: int
) -> None:
    """A key that somebody else may hold proves nothing."""
    await files.load()
    files.private.chmod(mode)
    with pytest.raises(KeysError, match="chmod 600"):
        await files.load()


async def test_a_restart_goes_on_with_the_same_keys(files: Files) -> None:
    """Tokens stay good when a Router starts anew."""
    first = await files.load()
    assert (await files.load()).signing.kid == first.signing.kid


async def test_a_lost_private_file_makes_a_key_that_waits(
    files: Files, clock: FakeClock
) -> None:
    """Verifiers that live on hold the old set for up to two looks."""
    await files.load()
    files.private.unlink()
    keys = await files.load()
    with pytest.raises(KeysError, match="long enough"):
        _ = keys.signing
    ready = asyncio.ensure_future(keys.ready())
    await tick(clock, 2 * POLL - 1)
    assert not ready.done()
    await tick(clock, 1, sleepers=0)
    await ready
    assert keys.signing.kid in files.published()


async def test_a_key_that_verifiers_never_saw_waits(
    files: Files, clock: FakeClock
) -> None:
    """A private file put back from a backup counts as newly published."""
    await files.load()
    kept = files.private.read_bytes()
    files.private.unlink()
    await files.load()
    files.private.write_bytes(kept)
    keys = await files.load()
    with pytest.raises(KeysError):
        _ = keys.signing
    clock.jump(2 * POLL)
    assert keys.signing.kid in files.published()


async def test_without_create_a_missing_file_is_a_fault(files: Files) -> None:
    """A misspelt path does not make new keys in silence."""
    with pytest.raises(KeysError, match="No such file"):
        await files.load(create=False)


async def test_a_key_signs_only_after_two_poll_intervals(
    files: Files, clock: FakeClock
) -> None:
    """At each moment the signing key is one that every verifier has seen."""
    keys = await files.load()
    old = keys.signing.kid
    async with running(keys.rotate(every=HOUR)):
        await tick(clock)
        await tick(clock, HOUR)
        [_, new] = files.published()
        assert keys.signing.kid == old
        await tick(clock)
        assert keys.signing.kid == old
        clock.jump(POLL - 1)
        assert keys.signing.kid == old
        clock.jump(1)
        assert keys.signing.kid == new


@pytest.mark.slow
async def test_a_key_stays_until_its_last_token_has_expired(
    files: Files, clock: FakeClock
) -> None:
    """The last token of the old key is good for all of its life."""
    keys = await files.load()
    public = await PublicKeys.load(files.public, clock=clock)
    signer, verifier = Signer(keys, clock=clock), Verifier(public, SANDBOX, clock=clock)
    old = keys.signing.kid
    async with running(keys.rotate(every=HOUR)), running(public.follow(poll=POLL)):
        await tick(clock, sleepers=2)
        await tick(clock, HOUR, sleepers=2)
        await tick(clock, sleepers=2)
        clock.jump(POLL - 1)
        token = signer.token(SESSION, SANDBOX, ALICE)
        for _ in range(300 // POLL):
            verifier.verify(token)
            await tick(clock, sleepers=2)
        for _ in range(30):
            await tick(clock, sleepers=2)
        assert old not in files.published()
        assert old not in public.current().keys
        assert len(files.published()) == 1


@pytest.mark.slow
async def test_no_call_fails_while_keys_rotate(files: Files, clock: FakeClock) -> None:
    """Through ten rotations every token made is good at its verifier."""
    keys = await files.load()
    public = await PublicKeys.load(files.public, clock=clock)
    signer, verifier = Signer(keys, clock=clock), Verifier(public, SANDBOX, clock=clock)
    seen = set()
    async with running(keys.rotate(every=20)), running(public.follow(poll=POLL)):
        for _ in range(50):
            await tick(clock, sleepers=2)
            verifier.verify(signer.token(SESSION, SANDBOX, ALICE))
            verifier.verify(Signer(keys, clock=clock).token(SESSION, SANDBOX, ALICE))
            seen.add(keys.signing.kid)
    assert len(seen) >= 10


async def test_two_routers_share_the_files(files: Files, clock: FakeClock) -> None:
    """Both use one key, and only one of them makes the next."""
    first, second = await files.load(), await files.load()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(first.rotate(every=HOUR)))
        await stack.enter_async_context(running(second.rotate(every=HOUR)))
        await tick(clock, sleepers=2)
        await tick(clock, HOUR, sleepers=2)
        await tick(clock, 2 * POLL, sleepers=2)
        assert len(files.published()) == 2
        assert first.signing.kid == second.signing.kid == files.published()[-1]


async def test_without_rotation_it_takes_what_others_put_there(
    files: Files, clock: FakeClock
) -> None:
    """Keys may be made by somebody else, who then also counts the wait."""
    keys = await files.load()
    now = int(clock.now().timestamp())
    fresh = PrivateKey.generate("EdDSA", now)
    told = [*json.loads(files.private.read_text())["keys"], fresh.dump()]
    async with running(keys.rotate()):
        files.private.write_text(json.dumps({"keys": told}))
        await tick(clock)
        assert files.published()[-1] == fresh.kid
        clock.jump(POLL)
        assert keys.signing.kid == fresh.kid


async def test_a_damaged_file_changes_nothing(files: Files, clock: FakeClock) -> None:
    """The keys in hand stay in use, and the failure is counted."""
    keys = await files.load()
    kid = keys.signing.kid
    async with running(keys.rotate(every=HOUR)):
        files.private.write_text('{"keys": [{"kty"')
        await tick(clock)
    assert (keys.signing.kid, keys.failures) == (kid, 1)


async def test_a_lost_public_file_is_written_again(
    files: Files, clock: FakeClock
) -> None:
    """Verifiers that start later find their keys."""
    keys = await files.load()
    async with running(keys.rotate()):
        files.public.unlink()
        await tick(clock)
        assert files.published() == [keys.signing.kid]


async def test_too_fast_a_rotation_is_refused(files: Files) -> None:
    """A key must have time to be seen and to be used."""
    keys = await files.load()
    with pytest.raises(ValueError, match="20 s"):
        await keys.rotate(every=19)


async def test_files_are_replaced_whole(files: Files) -> None:
    """Whoever reads meanwhile sees the old or the new file; no draft stays behind."""
    await files.load()
    names = {path.name for path in files.folder.iterdir()}
    assert names == {"jwt-signing.json", "jwt-public.json", ".jwt-signing.json.lock"}


async def test_a_folder_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    """The text names the path, so that it can be mended."""
    missing = tmp_path / "missing"
    with pytest.raises(KeysError, match="missing"):
        await SigningKeys.load(missing / "a", missing / "b", create=True)


async def test_a_verifier_waits_for_its_file(files: Files, clock: FakeClock) -> None:
    """A sandbox may start before the Router has published its keys."""
    found: list[PublicKeys] = []

    async def load() -> None:
        found.append(await PublicKeys.load(files.public, clock=clock, wait=1))

    async with running(load()):
        async with clock._arrived:
            await clock._arrived.wait_for(lambda: clock._sleepers)
        keys = await files.load()
        await clock.advance(0.2)
        while not found:
            await asyncio.to_thread(int)
    assert set(found[0].current().keys) == {keys.signing.kid}


async def test_a_verifier_does_not_wait_forever(files: Files) -> None:
    """A file that never comes is a fault at start."""
    with pytest.raises(KeysError, match="No such file"):
        await PublicKeys.load(files.public, clock=files.clock, wait=0)


async def test_a_verifier_keeps_the_last_good_keys(
    files: Files, clock: FakeClock
) -> None:
    """A half-written file is counted and never trusted."""
    await files.load()
    public = await PublicKeys.load(files.public, clock=clock)
    before = public.current()
    async with running(public.follow(poll=POLL)):
        files.public.write_text('{"keys": [')
        await tick(clock)
        files.public.write_text('{"keys": []}')
        await tick(clock)
    assert public.current() is before
    assert public.failures == 2


def jwk(**changes: Any) -> dict[str, Any]:
    good = PrivateKey.generate("ES256", 0).public.dump()
    return {k: v for k, v in {**good, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"d": "AAAA"}, "private"),
        ({"use": "enc"}, "signatures"),
        ({"key_ops": ["sign"]}, "verify"),
        ({"key_ops": "verify"}, "verify"),
        ({"alg": "EdDSA"}, "another algorithm"),
        ({"crv": "P-384"}, "neither"),
        ({"kty": "oct"}, "neither"),
        ({"kty": ["EC"]}, "elliptic"),
        ({"kid": None}, "kid"),
        ({"kid": "a b"}, "kid"),
        ({"kid": "x" * 65}, "kid"),
        ({"x": None}, "x is missing"),
        ({"x": "AA"}, "32 bytes"),
        ({"x": "=" * 43}, "base64url"),
        ({"y": "A" * 43}, "."),
    ],
)
def test_public_keys_refuse(changes: dict[str, Any], match: str) -> None:
    """A key says what it is and is it; another kind or use is none of ours."""
    with pytest.raises(ValueError, match=match):
        PublicKey.parse(jwk(**changes))


def test_a_name_stands_for_one_key() -> None:
    """Of two keys under one name, nobody could say which one was meant."""
    with pytest.raises(ValueError, match="twice"):
        KeySet.parse([jwk(kid="a"), jwk(kid="a")])


def test_halves_must_belong_together() -> None:
    """A private key under somebody else's public half is refused."""
    one, two = PrivateKey.generate("ES256", 0), PrivateKey.generate("ES256", 0)
    with pytest.raises(ValueError, match="halves"):
        PrivateKey.parse(one.dump() | {"d": two.dump()["d"]})


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_keys_survive_their_file_form(algorithm: Any) -> None:
    """What is written is what is read, and showing a key shows no secret."""
    key = PrivateKey.generate(algorithm, 7)
    again = PrivateKey.parse(key.dump())
    assert again.dump() == key.dump()
    assert PublicKey.parse(key.public.dump()) == key.public
    assert key.dump()["d"] not in repr(key)


def test_thumbprint_is_that_of_the_standard() -> None:
    """The name of a key is computed as others do. Source: RFC 8037, appendix A.3."""
    told = {
        "kty": "OKP",
        "crv": "Ed25519",
        "kid": "x",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }
    expected = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert thumbprint(PublicKey.parse(told).key) == expected
