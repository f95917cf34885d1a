"""What files may hold: forms, keys, roots past their time, and somebody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.forge import Forge, Signer, Svid
from tests.tlsloader.followed import ROUTER, following, in_place, path_of, polled
from tests.tlsloader.transport import hosted, knock, tls
from tlsloader import Material, MaterialError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PICOD = "spiffe://cluster.local/ns/agentcube-system/sa/picod"

# Forms


@pytest.mark.parametrize(
    "dress",
    [
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: b"\xef\xbb\xbf" + pem,
        lambda pem: b"subject=O = x\nissuer=O = y\n" + pem,
        lambda pem: b"\n\n" + pem + b"# the end",
        lambda pem: pem.rstrip(),
    ],
    ids=["crlf", "bom", "openssl's text", "comments", "no last newline"],
)
@pytest.mark.parametrize("part", ["key", "chain", "bundle"])
async def test_harmless_forms_are_read(
    forge: Forge, tmp_path: Path, part: str, dress: Callable[[bytes], bytes]
) -> None:
    """Editors and tools dress PEM in many ways that change nothing of it."""
    paths = forge.write(tmp_path, ROUTER)
    path = path_of(paths, part)
    async with polled(paths, forge) as followed:
        in_place(path, dress(path.read_bytes()))
        await followed.look()
    assert (followed.source.generation, followed.source.failures) == (1, 0)


def _der(svid: Any) -> dict[str, bytes]:
    return {"chain": svid.ders[0]}


def _written(svid: Any, form: PrivateFormat, secret: Any) -> dict[str, bytes]:
    key = load_pem_private_key(svid.key, None)
    return {"key": key.private_bytes(Encoding.PEM, form, secret)}


def _encrypted(svid: Any) -> dict[str, bytes]:
    return _written(svid, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def _old_encrypted(svid: Any) -> dict[str, bytes]:
    form = PrivateFormat.TraditionalOpenSSL
    return _written(svid, form, BestAvailableEncryption(b"secret"))


def _two_keys(svid: Any) -> dict[str, bytes]:
    return {"key": svid.key * 2}


def _request(svid: Any) -> dict[str, bytes]:
    return {
        "chain": svid.chain
        + b"-----BEGIN CERTIFICATE REQUEST-----\nAA==\n"
        + b"-----END CERTIFICATE REQUEST-----\n"
    }


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_der, "not_pem"),
        (_encrypted, "key_encrypted"),
        (_old_encrypted, "key_encrypted"),
        (_two_keys, "several_keys"),
        (_request, "foreign_block"),
    ],
)
async def test_other_forms_are_refused_by_name(
    forge: Forge,
    tmp_path: Path,
    make: Callable[[Any], dict[str, bytes]],
    reason: str,
) -> None:
    """What we do not read is kept out with a hint, and mended by writing it right."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with polled(paths, forge) as followed:
        in_place(paths.key, svid.key)
        in_place(paths.chain, svid.chain)
        for part, data in make(svid).items():
            in_place(path_of(paths, part), data)
        await followed.look()
        told = await followed.keeps(reason)
        assert "PRIVATE KEY-----" not in told
        forge.put(tmp_path, svid)
        await followed.look()
        await followed.shows(svid)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)],
    ids=["sec1", "pkcs1"],
)
async def test_older_keys_are_read(forge: Forge, tmp_path: Path, key: Any) -> None:
    """cert-manager writes PKCS#1 and SEC1 unless told otherwise."""
    svid = forge.svid(ROUTER, key=key)
    paths = forge.put(tmp_path, svid)
    old = _written(svid, PrivateFormat.TraditionalOpenSSL, NoEncryption())["key"]
    async with polled(paths, forge) as followed:
        in_place(paths.key, old)
        await followed.look()
    assert (followed.source.generation, followed.source.failures) == (1, 0)


# Keys


async def test_the_type_of_the_key_may_change(forge: Forge, tmp_path: Path) -> None:
    """A CA that changes its mind about keys is followed; one we cannot use is not."""
    paths = forge.write(tmp_path, ROUTER)
    async with polled(paths, forge) as followed:
        for key in (
            rsa.generate_private_key(65537, 2048),
            ec.generate_private_key(ec.SECP384R1()),
            ec.generate_private_key(ec.SECP256R1()),
        ):
            svid = forge.svid(ROUTER, key=key)
            forge.put(tmp_path, svid)
            await followed.look()
            await followed.shows(svid)
        before = followed.source.current()
        weak = rsa.generate_private_key(65537, 1024)  # noqa: S505
        forge.put(tmp_path, forge.svid(ROUTER, key=weak))
        await followed.look()
        await followed.keeps("unsupported_key")
        assert followed.source.current() is before


def test_an_rsa_key_has_to_sign(forge: Forge) -> None:
    """Its primes are not proven anew, which takes long, but that it works is."""
    key = rsa.generate_private_key(65537, 2048)
    svid, numbers = forge.svid(ROUTER, key=key), key.private_numbers()
    broken = rsa.RSAPrivateNumbers(
        p=numbers.p,
        q=numbers.q,
        d=numbers.d - 2,
        dmp1=numbers.dmp1 - 2,
        dmq1=numbers.dmq1,
        iqmp=numbers.iqmp,
        public_numbers=numbers.public_numbers,
    ).private_key(unsafe_skip_rsa_key_validation=True)
    pem = broken.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(MaterialError, match="does not sign") as caught:
        Material.parse(key=pem, chain=svid.chain, bundle=forge.bundle, now=forge.now)
    assert caught.value.reason == "bad_key"


# Roots


def signed_by(forge: Forge, root: Signer, identity: str) -> Svid:
    """Return an SVID by *root*, which is not shown with it."""
    svid = forge.svid(identity, by=[root])
    return Svid(svid.key, svid.certificates[:1])


async def test_one_expired_root_among_several_is_passed_over(
    forge: Forge, tmp_path: Path
) -> None:
    """SPIRE keeps roots for a day after their end: they count for nobody."""
    dead = forge.signer(subject="dead", age=7200, life=-3600)
    paths = forge.write(tmp_path, PICOD)
    in_place(paths.bundle, dead.pem + forge.bundle)
    async with (
        following(paths) as followed,
        hosted(followed.source, allow=ROUTER) as node,
    ):
        svid = forge.svid(PICOD)
        in_place(paths.key, svid.key)
        in_place(paths.chain, svid.chain)
        await followed.shows(svid)
        own = followed.source.current().bundles["cluster.local"]
        assert len(own.certificates) == 2
        assert await knock(node.address, tls(forge.svid(ROUTER)))
        assert not node.acceptor.refusals
        assert not await knock(node.address, tls(signed_by(forge, dead, ROUTER)))
        assert node.acceptor.refusals == {"signer_expired": 1}


@pytest.mark.parametrize("kind", ["empty", "expired"])
async def test_without_a_living_root_nothing_is_taken(
    forge: Forge, tmp_path: Path, kind: str
) -> None:
    """A bundle of no roots, or of dead ones only, makes no identity."""
    dead = forge.signer(age=7200, life=-3600)
    bundle, reason = {
        "empty": (b"", "empty_file"),
        "expired": (dead.pem, "signer_expired"),
    }[kind]
    paths, svid = forge.write(tmp_path, ROUTER), signed_by(forge, dead, ROUTER)
    async with polled(paths, forge) as followed:
        before = followed.source.current()
        in_place(paths.bundle, bundle)
        in_place(paths.key, svid.key)
        in_place(paths.chain, svid.chain)
        await followed.look()
        await followed.keeps(reason)
        assert followed.source.current() is before


async def test_without_a_living_root_nobody_is_admitted(
    forge: Forge, tmp_path: Path
) -> None:
    """All roots of a domain are dead: it is refused, whatever the system trusts."""
    other, file = Forge("other.test", forge.now), tmp_path / "other.pem"
    dead = other.signer(age=7200, life=-3600)
    file.write_bytes(dead.pem)
    caller = "spiffe://other.test/caller"
    paths = forge.write(tmp_path / "own", PICOD)
    async with (
        following(paths, {"other.test": file}) as followed,
        hosted(followed.source, allow=caller) as node,
    ):
        for svid in (signed_by(other, dead, caller), other.svid(caller)):
            assert not await knock(node.address, tls(svid))
        assert node.acceptor.refusals == {"signer_expired": 1, "untrusted_chain": 1}


async def test_an_identity_ends_with_its_ca(forge: Forge, tmp_path: Path) -> None:
    """A leaf that outlives its root proves nothing any more, and we say so in time."""
    forge.root = forge.signer(life=60)
    paths = forge.write(tmp_path, ROUTER)
    async with polled(paths, forge) as followed:
        assert followed.source.seconds_left <= 60
        followed.hand.jump(61)
        await followed.look()
        await followed.tells("identity expired", generation=1)
        assert not followed.source.usable


@pytest.mark.parametrize("first", ["old", "new"])
def test_an_identity_goes_on_by_a_renewed_root(forge: Forge, first: str) -> None:
    """The same CA key with a later end is another path, whichever stands first."""
    old = forge.signer(life=60)
    new = forge.signer(key=old.key, life=7200).pem
    svid = signed_by(forge, old, ROUTER)
    bundle = old.pem + new if first == "old" else new + old.pem
    own = Material.parse(key=svid.key, chain=svid.chain, bundle=bundle, now=forge.now)
    assert own.not_after == svid.certificates[0].not_valid_after_utc


async def test_a_leaf_of_another_ca_is_not_taken(forge: Forge, tmp_path: Path) -> None:
    """A leaf that does not chain to our bundle would be refused by everybody."""
    paths, stranger = forge.write(tmp_path, ROUTER), Forge("cluster.local", forge.now)
    svid = stranger.svid(ROUTER)
    async with polled(paths, forge) as followed:
        before = followed.source.current()
        in_place(paths.key, svid.key)
        in_place(paths.chain, svid.chain)
        await followed.look()
        told = await followed.keeps("untrusted_chain")
        assert str(paths.chain) in told
        assert str(paths.bundle) in told
        assert followed.source.current() is before


# Somebody else


@pytest.mark.parametrize(
    "other", [ROUTER + "-2", "spiffe://cluster.local/ns/agentcube-system/sa/other"]
)
async def test_nobody_becomes_somebody_else(
    forge: Forge, tmp_path: Path, other: str
) -> None:
    """Another service's files in the place of ours are refused, and so is acting on."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with polled(paths, forge) as followed:
        before = followed.source.current()
        forge.put(tmp_path, forge.svid(other))
        await followed.look()
        told = await followed.keeps("identity_changed")
        assert other in told
        assert "start the service anew" in told
        assert followed.source.current() is before
        forge.put(tmp_path, svid)
        await followed.look()
        await followed.shows(svid)


async def test_nobody_moves_to_another_trust_domain(
    forge: Forge, tmp_path: Path
) -> None:
    """Even with its roots: whom we admit was settled when we started."""
    paths, moved = forge.write(tmp_path, ROUTER), Forge("other.test", forge.now)
    async with polled(paths, forge) as followed:
        moved.write(tmp_path, ROUTER.replace("cluster.local", "other.test"))
        await followed.look()
        await followed.keeps("identity_changed")
        followed.hand.jump(7200)
        await followed.look()
        await followed.tells("identity expired", identity=ROUTER)
        assert not followed.source.usable
