from __future__ import annotations

import base64
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.forge import Forge, Svid, Way
from tlsloader import (
    BundlePaths,
    Material,
    MaterialError,
    Paths,
    SpiffeID,
    TrustBundle,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
FORGE = Forge("cluster.local")
SVID = FORGE.svid(ROUTER)
CURVE = ec.SECP256R1()


def parsed(svid: Svid = SVID, /, **parts: Any) -> Material:
    """Return the material of *svid* with some *parts* replaced."""
    good = {"key": svid.key, "chain": svid.chain, "bundle": FORGE.bundle}
    return Material.parse(**{**good, "now": FORGE.now, **parts})


def fault(svid: Svid = SVID, /, **parts: Any) -> MaterialError:
    with pytest.raises(MaterialError) as caught:
        parsed(svid, **parts)
    return caught.value


def test_holds_what_the_files_say(tmp_path: Path) -> None:
    """Good files become one snapshot that says who we are and until when."""
    svid = FORGE.svid(ROUTER, life=600)
    material = Material.load(FORGE.put(tmp_path, svid), now=FORGE.now)
    assert material.identity == SpiffeID.parse(ROUTER)
    assert material.leaf_sha256 == svid.leaf_sha256
    assert material.not_after == svid.certificates[0].not_valid_after_utc
    assert material.not_before == svid.certificates[0].not_valid_before_utc
    assert material.chain == svid.chain
    assert material.key == svid.key
    assert material.generation == 1
    assert dict(material.bundles) == {"cluster.local": FORGE.trust}


def test_never_shows_its_key() -> None:
    """A snapshot that reaches a log or a traceback gives no key away."""
    assert b"PRIVATE" in parsed().key
    assert "PRIVATE" not in repr(parsed())


def test_is_equal_by_content() -> None:
    """The same files at another time are the same material."""
    assert parsed(generation=1) == parsed(generation=2)
    assert parsed() != parsed(FORGE.svid(ROUTER))


def test_keeps_foreign_bundles_apart() -> None:
    """Each trust domain has its own roots and nothing is merged."""
    other = Forge("sandbox.cluster.local", FORGE.now)
    material = parsed(foreign={"sandbox.cluster.local": other.bundle})
    assert set(material.bundles) == {"cluster.local", "sandbox.cluster.local"}
    assert material.bundles["sandbox.cluster.local"] == other.trust
    with pytest.raises(TypeError):
        material.bundles["x"] = other.trust  # type: ignore[index]


def test_a_bundle_is_a_set() -> None:
    """Neither order nor repetition makes another bundle; a root more does."""
    one, two = FORGE.bundle, Forge("cluster.local", FORGE.now).bundle
    there = TrustBundle.parse("cluster.local", one + two)
    back = TrustBundle.parse("cluster.local", two + one + two)
    assert there == back
    assert there.fingerprint == back.fingerprint != FORGE.trust.fingerprint
    assert TrustBundle.parse("cluster.local", there.pem) == there


def test_needs_its_own_domain_to_be_told_once() -> None:
    """Our own roots come with our identity; a second set would be a way around."""
    assert fault(foreign={"cluster.local": FORGE.bundle}).reason == "own_domain_twice"


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(CURVE), rsa.generate_private_key(65537, 2048)]
)
@pytest.mark.parametrize(
    "form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL]
)
def test_reads_the_keys_that_others_write(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, form: PrivateFormat
) -> None:
    """PKCS#1 and SEC1 keys, as cert-manager writes them, become PKCS#8."""
    svid = FORGE.svid(ROUTER, key=key)
    pem = key.private_bytes(Encoding.PEM, form, NoEncryption())
    assert parsed(svid, key=pem).key == svid.key


@pytest.mark.parametrize("swapped", [False, True])
def test_key_and_chain_may_share_a_file(swapped: bool) -> None:  # noqa: FBT001
    """One credential file, in either order, is read whole and used for both."""
    both = SVID.chain + SVID.key if swapped else SVID.key + SVID.chain
    assert parsed(key=both, chain=both) == parsed()


@pytest.mark.parametrize(
    "dressed",
    [
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: b"\xef\xbb\xbf" + pem,
        lambda pem: b"# written by an agent\n" + pem + b"\n\n# the end\n",
    ],
    ids=["CRLF", "BOM", "comments"],
)
def test_what_stands_around_the_blocks_does_not_matter(dressed: Any) -> None:
    """Line ends, byte-order marks and comments change nothing."""
    again = parsed(
        key=dressed(SVID.key), chain=dressed(SVID.chain), bundle=dressed(FORGE.bundle)
    )
    assert again == parsed()


def test_reads_a_chain_with_an_intermediate() -> None:
    """Intermediates travel with the leaf."""
    near = FORGE.signer(FORGE.root, subject="near")
    svid = FORGE.svid(ROUTER, by=[near])
    assert parsed(svid).chain == svid.chain
    alone = Svid(svid.key, svid.certificates[:1])
    assert fault(alone).reason == "untrusted_chain"


@pytest.mark.parametrize(
    ("part", "content", "reason"),
    [
        ("key", b"", "empty_file"),
        ("chain", b" \n", "empty_file"),
        ("bundle", b"", "empty_file"),
        ("key", b"\x30\x82\x01", "not_pem"),
        ("chain", SVID.ders[0], "not_pem"),
        ("key", SVID.chain, "no_key"),
        ("key", SVID.key + SVID.key, "several_keys"),
        ("chain", SVID.key, "no_certificates"),
        ("bundle", SVID.key, "foreign_block"),
        ("bundle", FORGE.bundle + SVID.key, "foreign_block"),
        ("chain", SVID.chain.replace(b"CERTIFICATE", b"X509 CRL"), "foreign_block"),
        ("key", FORGE.svid(ROUTER).key, "key_mismatch"),
        ("bundle", SVID.chain, "bundle_signer_not_ca"),
        ("bundle", Forge("cluster.local").bundle, "untrusted_chain"),
    ],
)
def test_refuses_files_that_make_no_identity(
    part: str, content: bytes, reason: str
) -> None:
    """Each way in which a file can be wrong has a reason, and the error names it."""
    error = fault(SVID, **{part: content})
    assert error.reason == reason
    assert f"the {part}" in str(error)


def spoiled(pem: bytes) -> bytes:
    """Return *pem* with a block that is good base64 of something else."""
    return re.sub(
        rb"-----\n.*?\n-----", b"-----\n" + base64.b64encode(b"x" * 60) + b"\n-----",
        pem,
        count=1,
        flags=re.DOTALL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("part", "content", "reason"),
    [
        ("key", spoiled(SVID.key), "bad_key"),
        ("chain", spoiled(SVID.chain), "bad_certificate"),
        ("bundle", spoiled(FORGE.bundle), "bad_certificate"),
    ],
)
def test_refuses_blocks_of_garbage(part: str, content: bytes, reason: str) -> None:
    """A block that looks whole but holds something else is refused."""
    assert fault(SVID, **{part: content}).reason == reason


def other_form(certificate: x509.Certificate) -> bytes | None:
    """Return *certificate* as PEM whose signature says that it lacks its last bit."""
    signature = certificate.signature
    if signature[-1] & 1:
        return None
    signed = certificate.public_bytes(Encoding.DER)[: -len(signature) - 1]
    text = base64.b64encode(signed + b"\x01" + signature)
    return b"-----BEGIN CERTIFICATE-----\n%b\n-----END CERTIFICATE-----\n" % text


def test_the_form_of_signatures_is_judged() -> None:
    """Neither our leaf nor a root may be changed where no signature covers it."""
    svids = (FORGE.svid(ROUTER) for _ in range(1000))
    svid = next(each for each in svids if other_form(each.certificates[0]))
    error = fault(svid, chain=other_form(svid.certificates[0]))
    assert error.reason == "malformed_certificate"
    roots = (FORGE.signer().certificate for _ in range(1000))
    error = fault(bundle=next(filter(None, map(other_form, roots))))
    assert error.reason == "bundle_malformed_certificate"


@pytest.mark.parametrize(
    "form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL]
)
def test_refuses_an_encrypted_key(form: PrivateFormat) -> None:
    """Nobody is there to type a pass phrase, and the error says so."""
    key = load_pem_private_key(SVID.key, password=None)
    pem = key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret"))
    error = fault(key=pem)
    assert error.reason == "key_encrypted"
    assert "without a pass phrase" in str(error)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"age": 7200, "life": -1}, "expired"),
        ({"age": -60}, "not_yet_valid"),
        ({"ca": True}, "ca_leaf"),
        ({"usages": ("digital_signature", "key_cert_sign")}, "cert_sign_leaf"),
        ({"usages": ("digital_signature", "crl_sign")}, "crl_sign_leaf"),
        ({"usages": ("key_agreement",)}, "no_digital_signature"),
        ({"uris": ()}, "no_uri"),
        ({"uris": ("spiffe://cluster.local",)}, "no_path"),
        ({"uris": (ROUTER, ROUTER + "2")}, "several_uris"),
        ({"uris": ("https://example.org/",)}, "not_spiffe"),
        ({"key": ec.generate_private_key(ec.SECP256K1())}, "unsupported_key"),
    ],
)
def test_refuses_an_svid_that_no_peer_would_admit(
    faults: dict[str, Any], reason: str
) -> None:
    """Our own credential keeps the rules that we hold peers to."""
    error = fault(FORGE.svid(ROUTER, **faults))
    assert error.reason == reason
    assert "have it issued anew" in str(error)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"ca": False}, "signer_not_ca"),
        ({"usages": ("crl_sign",)}, "signer_no_cert_sign"),
        ({"uris": ("spiffe://evil.test",)}, "signer_other_domain"),
    ],
)
def test_refuses_an_intermediate_that_may_not_sign(
    faults: dict[str, Any], reason: str
) -> None:
    """What is shown beside our leaf has to be able to sign it."""
    near = FORGE.signer(FORGE.root, subject="near", **faults)
    assert fault(FORGE.svid(ROUTER, by=[near])).reason == reason


def test_a_torn_end_spoils_what_is_whole_before_it() -> None:
    """A bundle or a chain that breaks off after its first block is not taken."""
    second = Forge("cluster.local", FORGE.now).bundle
    assert fault(bundle=FORGE.bundle + second[:-40]).reason == "half_written"
    assert fault(chain=SVID.chain + second[:40]).reason == "half_written"


def test_a_torn_start_spoils_what_is_whole_after_it() -> None:
    """Half a block is no remark between blocks: a root less would go unnoticed."""
    second = Forge("cluster.local", FORGE.now).bundle
    for cut in (1, 5, 40):
        assert fault(bundle=second[cut:] + FORGE.bundle).reason == "half_written"


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"ca": False}, "signer_not_ca"),
        ({"usages": ("crl_sign",)}, "signer_no_cert_sign"),
        ({"uris": ("spiffe://evil.test",)}, "signer_other_domain"),
        ({"uris": ("spiffe://cluster.local/ca",)}, "signer_has_path"),
        ({"uris": ("spiffe://cluster.local/",)}, "signer_not_spiffe"),
        ({"uris": ("spiffe://cluster.local",) * 2}, "signer_several_uris"),
        ({"key": ec.generate_private_key(ec.SECP256K1())}, "signer_unsupported_key"),
        (
            {"by": FORGE.impostor(FORGE.root), "subject": "cluster.local CA"},
            "bad_signature",
        ),
    ],
)
def test_refuses_a_root_that_may_not_sign(faults: dict[str, Any], reason: str) -> None:
    """What is in a bundle by mistake is told, beside good roots too."""
    odd = FORGE.signer(**{"subject": "odd", **faults})
    assert fault(bundle=FORGE.bundle + odd.pem).reason == f"bundle_{reason}"


@pytest.mark.parametrize(
    "faults",
    [
        {"usages": None},
        {"usage_critical": False},
        {"way": Way(hashes.SHA224())},
        {"uris": ("spiffe://cluster.local",)},
    ],
    ids=["no usage", "usage not critical", "weakly signed by itself", "an SVID"],
)
def test_a_root_is_trusted_because_it_is_there(faults: dict[str, Any]) -> None:
    """What a root says about its own signature or usage is not asked of roots."""
    root = FORGE.signer(**faults)
    alone = FORGE.svid(ROUTER, by=[root], digest=hashes.SHA256())
    svid = Svid(alone.key, alone.certificates[:1])
    assert parsed(svid, bundle=root.pem).identity == SpiffeID.parse(ROUTER)


def test_refuses_a_chain_that_no_peer_would_read() -> None:
    """More intermediates than peers accept are refused at home."""
    near = FORGE.signer(FORGE.root, subject="near")
    assert fault(FORGE.svid(ROUTER, by=[near] * 9)).reason == "chain_too_long"


def test_refuses_a_merged_bundle() -> None:
    """Roots of two domains in one file would let one domain forge the other's."""
    foreign = Forge("other.test", FORGE.now)
    foreign.root = foreign.signer(uris=("spiffe://other.test",))
    error = fault(bundle=FORGE.bundle + foreign.bundle)
    assert error.reason == "bundle_signer_other_domain"
    assert "its own file" in str(error)


def test_passes_over_an_expired_root() -> None:
    """One root that has ended does not spoil the others; alone it is useless."""
    old = FORGE.signer(life=-1).pem
    assert (
        len(parsed(bundle=old + FORGE.bundle).bundles["cluster.local"].certificates)
        == 2
    )
    assert fault(bundle=old).reason == "untrusted_chain"


@pytest.mark.parametrize("part", ["key", "chain", "bundle"])
@given(share=st.floats(0, 1, exclude_max=True))
def test_half_a_file_is_never_taken(part: str, share: float) -> None:
    """Wherever the writer was when we read, half a file is no identity."""
    whole = {"key": SVID.key, "chain": SVID.chain, "bundle": FORGE.bundle}[part]
    torn = whole[: int((len(whole) - 1) * share)]  # all but the last line end
    assert fault(SVID, **{part: torn}).reason in {
        "empty_file",
        "half_written",
        "not_pem",
    }


@given(st.binary())
def test_bytes_make_an_error_or_material(junk: bytes) -> None:
    """No content of a file fails in another way than by its error."""
    for part in ("key", "chain", "bundle"):
        fault(SVID, **{part: junk})


@pytest.mark.parametrize("missing", ["key", "chain", "bundle"])
def test_names_the_missing_file(missing: str, tmp_path: Path) -> None:
    """Whoever reads the error knows which file to look for."""
    paths = FORGE.put(tmp_path, SVID)
    gone: Path = getattr(paths, missing)
    gone.unlink()
    with pytest.raises(MaterialError, match=re.escape(str(gone))) as caught:
        Material.load(paths, now=FORGE.now)
    assert caught.value.reason == "file_missing"


def test_a_foreign_bundle_has_to_be_there_too(tmp_path: Path) -> None:
    """A flag that names a file which never came is a fault, not an empty bundle."""
    paths, gone = FORGE.put(tmp_path, SVID), tmp_path / "other.pem"
    with pytest.raises(MaterialError, match=re.escape(str(gone))):
        Material.load(paths, BundlePaths({"other.test": gone}), now=FORGE.now)


def loaded_with_key(paths: Paths, key: Path) -> MaterialError:
    with pytest.raises(MaterialError, match=re.escape(str(key))) as caught:
        Material.load(Paths(key, paths.chain, paths.bundle), now=FORGE.now)
    return caught.value


def test_does_not_hang_on_a_pipe(tmp_path: Path) -> None:
    """A FIFO, a device or a folder in place of a file is refused at once."""
    paths = FORGE.put(tmp_path, SVID)
    os.mkfifo(tmp_path / "pipe")
    assert loaded_with_key(paths, tmp_path / "pipe").reason == "not_a_file"
    assert loaded_with_key(paths, tmp_path).reason == "not_a_file"
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert loaded_with_key(paths, tmp_path / "zero").reason == "not_a_file"


def test_does_not_read_without_end(tmp_path: Path) -> None:
    """A file too large to be PEM is refused, not read into memory."""
    huge = tmp_path / "huge.pem"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    error = loaded_with_key(FORGE.put(tmp_path, SVID), huge)
    assert error.reason == "file_too_large"


def test_says_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    """A loop of links is told apart from a missing file."""
    loop = tmp_path / "loop.pem"
    loop.symlink_to(loop)
    error = loaded_with_key(FORGE.put(tmp_path, SVID), loop)
    assert error.reason == "file_unreadable"
