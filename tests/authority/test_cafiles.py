"""An authority that somebody else made: used if it is right, refused in words."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from authority import Authority, AuthorityError, CAFiles, CATexts
from tests.forge import Forge, Signer
from tlsloader import Allowlist, Material, SpiffeID, verify_peer

if TYPE_CHECKING:
    from collections.abc import Sequence

DOMAIN = "sandbox.cluster.local"
SANDBOX = SpiffeID(DOMAIN, "/ns/default/sandbox/sbx-a")
HOUR = timedelta(hours=1)


@pytest.fixture
def forge() -> Forge:
    return Forge(DOMAIN)


def pem_of(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def written(
    folder: Path, chain: Sequence[Signer], roots: Sequence[Signer] = ()
) -> CAFiles:
    """Write the authority that the first of *chain* is."""
    files = CAFiles(folder / "ca.pem", folder / "ca.key")
    files.certificate.write_bytes(b"".join(each.pem for each in chain))
    files.key.touch(mode=0o600)
    files.key.write_bytes(pem_of(chain[0].key))
    if not roots:
        return files
    bundle = folder / "roots.pem"
    bundle.write_bytes(b"".join(each.pem for each in roots))
    return replace(files, bundle=bundle)


def loaded(files: CAFiles, forge: Forge) -> Authority:
    return files.read().authority(DOMAIN, now=forge.now)


def refusal(files: CAFiles, forge: Forge) -> AuthorityError:
    """Return why *files* are no authority; the words say which file, and what to do."""
    with pytest.raises(AuthorityError) as caught:
        loaded(files, forge)
    assert str(files.certificate.parent) in str(caught.value)
    assert "PRIVATE" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def judge(authority: Authority, forge: Forge) -> Material:
    """Have *authority* sign, and judge that as its owner and as a peer."""
    issued = authority.issue(SANDBOX, life=HOUR, now=forge.now)
    material = Material.parse(
        key=issued.key, chain=issued.chain, bundle=authority.bundle, now=forge.now
    )
    chain = x509.load_pem_x509_certificates(issued.chain)
    peer = verify_peer(
        [each.public_bytes(Encoding.DER) for each in chain],
        bundles=material.bundles,
        allow=Allowlist.parse(str(SANDBOX)),
        now=forge.now,
    )
    assert peer.id == SANDBOX
    return material


def test_a_root_signs(forge: Forge, tmp_path: Path) -> None:
    """It is the bundle itself, and is not shown with each leaf."""
    authority = loaded(written(tmp_path, [forge.root]), forge)
    assert authority.bundle == forge.bundle
    assert judge(authority, forge).chain.count(b"BEGIN") == 1


def test_an_intermediate_signs(forge: Forge, tmp_path: Path) -> None:
    """All that stands between leaf and root is shown; the bundle holds the root."""
    root, upper = forge.root, forge.signer(forge.root, subject="upper")
    lower = forge.signer(upper, subject="lower")
    ways = {"one file": ([lower, upper, root], []), "two": ([lower, upper], [root])}
    for name, way in ways.items():
        (tmp_path / name).mkdir()
        authority = loaded(written(tmp_path / name, *way), forge)
        assert authority.bundle == forge.bundle
        shown = x509.load_pem_x509_certificates(judge(authority, forge).chain)
        assert shown[1:] == [lower.certificate, upper.certificate]


def test_an_rsa_key_signs(forge: Forge, tmp_path: Path) -> None:
    """Many an authority has one; the identities' own keys are ECDSA all the same."""
    ca = forge.signer(key=rsa.generate_private_key(65537, 2048))
    judge(loaded(written(tmp_path, [ca]), forge), forge)


def test_identities_end_with_what_they_stand_on(forge: Forge, tmp_path: Path) -> None:
    """No leaf outlives an intermediate: those who verify would refuse it anyway."""
    short = forge.signer(forge.root, subject="short", life=600)
    authority = loaded(written(tmp_path, [short, forge.root]), forge)
    issued = authority.issue(SANDBOX, life=HOUR, now=forge.now)
    assert issued.not_after == short.certificate.not_valid_after_utc


def test_it_names_its_signer_as_that_names_itself(forge: Forge, tmp_path: Path) -> None:
    """Authorities have several ways to name a key; verifiers compare the names."""
    own = x509.SubjectKeyIdentifier(b"a name of its own")
    ca = Forge(key_ids=False).signer(subject="named", extra=((own, False),))
    issued = loaded(written(tmp_path, [ca]), forge).issue(
        SANDBOX, life=HOUR, now=forge.now
    )
    leaf = x509.load_pem_x509_certificate(issued.chain)
    found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert found.value.key_identifier == own.digest


def test_what_may_not_sign_is_refused(forge: Forge, tmp_path: Path) -> None:
    """Each rule about signers holds for our own, before it has signed anything."""
    root, signer = forge.root, forge.signer
    other = Forge("other.test")
    narrow = x509.NameConstraints([x509.UniformResourceIdentifier("other.test")], None)
    cases: dict[str, tuple[Sequence[Signer], Sequence[Signer]]] = {
        "signer_not_ca": ([signer(root, subject="a", ca=False)], [root]),
        "signer_no_cert_sign": (
            [signer(root, subject="b", usages=("crl_sign",))],
            [root],
        ),
        "signer_other_domain": (
            [signer(root, subject="c", uris=("spiffe://other.test",))],
            [root],
        ),
        "bundle_signer_not_ca": ([signer(subject="d", ca=False)], ()),
        "bundle_signer_other_domain": (
            [signer(subject="e", uris=("spiffe://other.test",))],
            (),
        ),
        "authority_expired": ([signer(root, subject="f", life=-1)], [root]),
        "untrusted_chain": ([signer(root, subject="g")], [other.root]),
        "no_root": ([signer(root, subject="h")], ()),
    }
    for reason, (chain, roots) in cases.items():
        files = written(tmp_path, chain, roots)
        assert refusal(files, forge).reason == reason
    constrained = signer(subject="i", extra=((narrow, True),))
    assert refusal(written(tmp_path, [constrained]), forge).reason == "name_constraints"
    upper = signer(subject="j", path_length=0)
    files = written(tmp_path, [signer(upper, subject="k"), upper])
    assert refusal(files, forge).reason == "path_length_exceeded"


def test_what_is_no_pair_is_refused(forge: Forge, tmp_path: Path) -> None:
    """A key of another certificate, an odd one, an encrypted one, none at all."""
    files = written(tmp_path, [forge.root])
    secret = BestAvailableEncryption(b"secret")
    key: Any = forge.signer().key
    cases = {
        "key_mismatch": pem_of(key),
        "unsupported_key": pem_of(ed25519.Ed25519PrivateKey.generate()),
        "bad_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret),
    }
    for reason, pem in cases.items():
        files.key.write_bytes(pem)
        assert refusal(files, forge).reason == reason
    files.key.write_bytes(forge.bundle)
    assert refusal(files, forge).reason == "bad_key"
    files.certificate.write_bytes(b"junk")
    files.key.write_bytes(pem_of(forge.root.key))
    assert refusal(files, forge).reason == "bad_certificate"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_reach_is_refused(
    mode: int, forge: Forge, tmp_path: Path
) -> None:
    """It may have been taken: whoever has it makes sandboxes."""
    files = written(tmp_path, [forge.root])
    files.key.chmod(mode)
    error = refusal(files, forge)
    assert error.reason == "not_private"
    assert "chmod" in error.hint


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_somebody_elses_key_is_refused(forge: Forge, tmp_path: Path) -> None:
    """Its owner could read and replace it."""
    files = written(tmp_path, [forge.root])
    os.chown(files.key, 12345, -1)
    assert refusal(files, forge).reason == "not_private"


def test_what_is_no_file_is_refused(forge: Forge, tmp_path: Path) -> None:
    """Missing, a folder, a pipe, endless: nothing hangs."""
    files = written(tmp_path, [forge.root])
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "large").write_bytes(b"x" * (2 << 20))
    (tmp_path / "large").chmod(0o600)
    cases = {
        "none": "file_unreadable",
        "": "not_a_file",
        "pipe": "not_a_file",
        "large": "not_a_file",
    }
    for name, reason in cases.items():
        found = refusal(replace(files, key=tmp_path / name), forge).reason
        assert found in {reason, "file_unreadable"}


def test_shows_no_key(forge: Forge, tmp_path: Path) -> None:
    """What reaches a log gives no key away."""
    assert "PRIVATE" not in repr(written(tmp_path, [forge.root]).read())


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_anything_else_is_refused_in_words(certificate: bytes, key: bytes) -> None:
    """No bytes lead to anything but a reason."""
    texts = CATexts(CAFiles(Path("c"), Path("k")), certificate, key, None)
    with pytest.raises(AuthorityError) as caught:
        texts.authority(DOMAIN, now=Forge(DOMAIN).now)
    assert caught.value.reason
