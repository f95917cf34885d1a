from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from authority import Authority, AuthorityError, Issued, NotIssuableError
from tlsloader import (
    Allowlist,
    InvalidSpiffeIDError,
    Material,
    MaterialError,
    SpiffeID,
    verify_peer,
)

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROUTER = SpiffeID.parse(
    "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
)
AUTHORITY = Authority.create("cluster.local", now=NOW)


def leaf_of(issued: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issued.chain)


def material(
    issued: Issued, authority: Authority = AUTHORITY, now: datetime = NOW
) -> Material:
    return Material.parse(
        key=issued.key, chain=issued.chain, bundle=authority.bundle, now=now
    )


def test_issues_what_our_own_rules_admit() -> None:
    """An issued identity is good material, and a peer by it is admitted."""
    issued = AUTHORITY.issue(ROUTER, life=HOUR, now=NOW)
    mine = material(issued)
    assert mine.identity == issued.identity == ROUTER
    assert mine.leaf_sha256 == issued.leaf_sha256
    assert mine.not_after == issued.not_after == NOW + HOUR
    der = leaf_of(issued).public_bytes(Encoding.DER)
    allow = Allowlist.parse(str(ROUTER))
    peer = verify_peer([der], bundles=mine.bundles, allow=allow, now=NOW)
    assert peer.id == ROUTER


def test_every_identity_has_a_key_of_its_own() -> None:
    """Renewal makes a new key; an old one that leaked dies with its certificate."""
    one, two = (AUTHORITY.issue(ROUTER, life=HOUR, now=NOW) for _ in range(2))
    assert one.key != two.key
    assert leaf_of(one).serial_number != leaf_of(two).serial_number


def test_puts_names_beside_the_identity_only_when_asked() -> None:
    """Clients that check names get them; nobody else has any."""
    plain = AUTHORITY.issue(ROUTER, life=HOUR, now=NOW)
    named = AUTHORITY.issue(
        ROUTER, life=HOUR, now=NOW, dns_names=["localhost"], ip_addresses=["::1"]
    )
    assert names(plain, x509.DNSName) == names(plain, x509.IPAddress) == []
    assert names(named, x509.DNSName) == ["localhost"]
    assert names(named, x509.IPAddress) == [ip_address("::1")]
    assert names(named, x509.UniformResourceIdentifier) == [str(ROUTER)]


def names(issued: Issued, kind: type[x509.GeneralName]) -> list[object]:
    extensions = leaf_of(issued).extensions
    san = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [each.value for each in san.value if isinstance(each, kind)]


def test_a_key_is_not_shown() -> None:
    """What reaches a log gives no key away."""
    issued = AUTHORITY.issue(ROUTER, life=HOUR, now=NOW)
    assert "PRIVATE" not in repr(issued)


@pytest.mark.parametrize(
    "foreign",
    [
        "spiffe://cluster.local",
        "spiffe://sandbox.cluster.local/ns/a/sandbox/sbx-1",
        "spiffe://evil.test/ns/agentcube-system/sa/agentcube-router",
    ],
)
def test_gives_no_identity_of_another_domain(foreign: str) -> None:
    """An authority cannot be talked into a name that is not under its domain."""
    with pytest.raises(NotIssuableError) as caught:
        AUTHORITY.issue(SpiffeID.parse(foreign), life=HOUR, now=NOW)
    assert caught.value.reason == "not_ours"


@given(st.floats(2, 1e6), st.integers(0, 999_999))
def test_lives_at_least_as_long_as_asked(seconds: float, micros: int) -> None:
    """Certificates know whole seconds; two seconds must not become one."""
    now, life = NOW.replace(microsecond=micros), timedelta(seconds=seconds)
    issued = AUTHORITY.issue(ROUTER, life=life, now=now)
    assert now + life <= issued.not_after < now + life + timedelta(seconds=1)
    material(issued, now=now)


def test_no_identity_outlives_its_authority() -> None:
    """Near its own end the authority gives less, and after it nothing."""
    short = Authority.create("cluster.local", now=NOW, life=HOUR)
    cut = short.issue(ROUTER, life=2 * HOUR, now=NOW)
    assert cut.not_after == NOW + HOUR
    with pytest.raises(NotIssuableError) as caught:
        short.issue(ROUTER, life=HOUR, now=NOW + HOUR)
    assert caught.value.reason == "authority_expired"
    assert caught.value.hint


def test_its_root_signs_leaves_of_its_domain_only() -> None:
    """The root says for whom it signs, and allows no CA below it."""
    extensions = AUTHORITY.certificate.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    san = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert (basic.value.ca, basic.value.path_length, basic.critical) == (True, 0, True)
    uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://cluster.local"]
    key = AUTHORITY.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_two_authorities_are_strangers() -> None:
    """Neither name nor domain makes one authority's identity good at another's."""
    other = Authority.create("cluster.local", now=NOW)
    assert other.certificate.subject != AUTHORITY.certificate.subject
    with pytest.raises(MaterialError, match="was not signed by a root"):
        material(other.issue(ROUTER, life=HOUR, now=NOW))


def test_needs_a_trust_domain() -> None:
    """A name that is none is refused before any key is made."""
    with pytest.raises(InvalidSpiffeIDError):
        Authority.create("Cluster", now=NOW)


# Kept in a folder


def test_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """A second start signs with the first one's key."""
    first = Authority.load_or_create(tmp_path / "ca", "cluster.local", now=NOW)
    again = Authority.load_or_create(tmp_path / "ca", "cluster.local", now=NOW)
    assert again.bundle == first.bundle
    material(again.issue(ROUTER, life=HOUR, now=NOW), first)


def test_keeps_its_key_to_itself(tmp_path: Path) -> None:
    """The folder is 0700 and the key 0600, whatever the umask."""
    folder = tmp_path / "deep" / "ca"
    Authority.load_or_create(folder, "cluster.local", now=NOW)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem"]


@pytest.mark.parametrize("loose", ["", "ca.key"])
def test_uses_no_key_that_others_could_read(loose: str, tmp_path: Path) -> None:
    """A key that was open to others may have been taken: a person has to decide."""
    Authority.load_or_create(tmp_path / "ca", "cluster.local", now=NOW)
    path = tmp_path / "ca" / loose
    path.chmod(path.stat().st_mode | 0o040)
    error = refused(tmp_path / "ca")
    assert error.reason == "not_private"
    assert "chmod" in error.hint


def refused(folder: Path, domain: str = "cluster.local") -> AuthorityError:
    with pytest.raises(AuthorityError) as caught:
        Authority.load_or_create(folder, domain, now=NOW)
    return caught.value


def test_refuses_another_domains_authority(tmp_path: Path) -> None:
    """One state folder belongs to one trust domain."""
    Authority.load_or_create(tmp_path / "ca", "cluster.local", now=NOW)
    error = refused(tmp_path / "ca", "other.test")
    assert error.reason == "other_trust_domain"
    assert "cluster.local" in str(error)


def test_refuses_an_expired_authority(tmp_path: Path) -> None:
    """An authority that has ended is replaced by a person, not in silence."""
    folder, past = tmp_path / "ca", NOW - 2 * HOUR
    Authority.load_or_create(folder, "cluster.local", now=past, life=HOUR)
    assert refused(folder).reason == "authority_expired"


@pytest.mark.parametrize("file", ["ca.key", "ca.pem"])
def test_refuses_what_it_cannot_read(file: str, tmp_path: Path) -> None:
    """Damaged files are an error with a remedy, never a new authority."""
    Authority.load_or_create(tmp_path / "ca", "cluster.local", now=NOW)
    (tmp_path / "ca" / file).write_bytes(b"junk")
    error = refused(tmp_path / "ca")
    assert error.reason == "broken"
    assert "move the folder away" in error.hint


def test_refuses_a_missing_key(tmp_path: Path) -> None:
    """A root whose key is gone cannot sign, and is not replaced unasked."""
    Authority.load_or_create(tmp_path / "ca", "cluster.local", now=NOW)
    (tmp_path / "ca" / "ca.key").unlink()
    assert refused(tmp_path / "ca").reason == "broken"


def test_refuses_a_key_of_another_root(tmp_path: Path) -> None:
    """Key and root have to be a pair."""
    for name in ("one", "two"):
        Authority.load_or_create(tmp_path / name, "cluster.local", now=NOW)
    (tmp_path / "two" / "ca.key").replace(tmp_path / "one" / "ca.key")
    assert refused(tmp_path / "one").reason == "broken"


def test_a_start_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    """A key without its root has signed nothing yet and is replaced."""
    folder = tmp_path / "ca"
    Authority.load_or_create(folder, "cluster.local", now=NOW)
    (folder / "ca.pem").unlink()
    (folder / ".ca.pem.new").write_bytes(b"half")
    again = Authority.load_or_create(folder, "cluster.local", now=NOW)
    material(again.issue(ROUTER, life=HOUR, now=NOW), again)
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem"]
