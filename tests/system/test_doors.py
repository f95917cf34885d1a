"""Strangers at every door of a running mesh: nobody gets one byte of HTTP/2."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cubemesh import Sandbox
from tests.cubemesh.pki import CA, Pair
from tests.system.doors import doors_of
from tests.system.mesh import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.system.doors import Door
    from tests.system.mesh import Up

pytestmark = pytest.mark.slow
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@pytest.fixture(scope="module")
def session_id(mtls: Up) -> Iterator[str]:
    with Sandbox.create(profile=mtls.profile) as sandbox:
        yield sandbox.session_id


@pytest.fixture(params=["router", "workloadmanager", "picod"])
def door(request: pytest.FixtureRequest, mtls: Up, session_id: str) -> Door:
    return doors_of(mtls, session_id)[request.param]


def test_who_may_is_answered(door: Door) -> None:
    """The knock itself is good: a rightful caller gets HTTP/2 SETTINGS for it."""
    files = door.rightful_files
    assert len(knock(door.address, files / "svid.pem", files / "key.pem")) > 0


def test_without_a_certificate(door: Door, mtls: Up) -> None:
    """Who shows nothing is turned away."""
    with refused(mtls, door, "no_certificate"):
        assert knock(door.address) == b""


def test_without_tls(door: Door, mtls: Up) -> None:
    """Plain HTTP/2 is turned away."""
    with refused(mtls, door, "not_tls"):
        assert plain_knock(door.address) == b""


def test_of_a_foreign_ca(door: Door, mtls: Up, tmp_path: Path) -> None:
    """The right name from a CA that nobody here knows is worth nothing."""
    files = CA().issue(door.rightful).write(tmp_path)
    with refused(mtls, door, "untrusted_chain"):
        assert knock(door.address, *files) == b""


def test_the_right_name_from_the_sandboxes_ca(
    door: Door, mtls: Up, tmp_path: Path
) -> None:
    """Who holds the sandboxes' CA key can make no service and no user of the mesh."""
    files = forged(mtls, door.rightful).write(tmp_path)
    with refused(mtls, door, "untrusted_chain"):
        assert knock(door.address, *files) == b""


def test_a_sandboxs_own_identity(
    door: Door, mtls: Up, session_id: str, tmp_path: Path
) -> None:
    """Code that got hold of its sandbox's key still passes no door."""
    name = mtls.sandbox_of(session_id)
    own = f"spiffe://sandbox.cluster.local/ns/agentcube-system/sandbox/{name}"
    files = forged(mtls, own).write(tmp_path)
    with refused(mtls, door, "untrusted_chain"):
        assert knock(door.address, *files) == b""


def test_the_other_service(door: Door, mtls: Up) -> None:
    """The WorkloadManager's own identity calls nobody here."""
    files = mtls.state / "identities" / "workloadmanager"
    with refused(mtls, door, "not_admitted"):
        assert knock(door.address, files / "svid.pem", files / "key.pem") == b""


def test_no_ca_is_in_both_bundles(mtls: Up) -> None:
    """Services and sandboxes have no root in common."""
    bundles = mtls.state / "bundles"
    roots = [
        {c.fingerprint(hashes.SHA256()) for c in certificates(bundles / name)}
        for name in ("cluster.local.pem", "sandbox.cluster.local.pem")
    ]
    assert all(roots)
    assert not roots[0] & roots[1]


def test_keys_are_ours_alone(mtls: Up) -> None:
    """Every key and folder is closed to other users; of a sandbox no key is there."""
    for place in (mtls.state, mtls.runtime):
        assert place.stat().st_mode & 0o077 == 0
    keys = [p for p in mtls.state.rglob("*") if "key" in p.name and p.is_file()]
    assert len(keys) > 4
    assert {oct(p.stat().st_mode & 0o777) for p in keys} == {"0o600"}
    places = [p for p in mtls.runtime.rglob("*") if p.is_file()]
    places += (mtls.state / "logs").iterdir()
    assert not [p for p in places if b"PRIVATE KEY" in p.read_bytes()]


def knock(address: str, chain: Path | None = None, key: Path | None = None) -> bytes:
    """Return what the door says to the beginning of HTTP/2 under TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if chain is not None:
        context.load_cert_chain(chain, key)
    with connected(address) as plain:
        try:
            with context.wrap_socket(plain) as connection:
                connection.sendall(_PREFACE)
                return connection.recv(64)
        except OSError:
            return b""


def plain_knock(address: str) -> bytes:
    """Return what the door says to HTTP/2 without TLS."""
    with connected(address) as connection:
        try:
            connection.sendall(_PREFACE)
            answer = connection.recv(64)
        except OSError:
            return b""
    # A TLS alert is the only thing that may come; it is not HTTP/2.
    return b"" if answer[:1] == b"\x15" else answer


def connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), 20)


def forged(mesh: Up, name: str) -> Pair:
    """Return a certificate for *name* that the sandboxes' CA signed."""
    folder = mesh.state / "workloadmanager" / "ca"
    signer = serialization.load_pem_private_key(
        (folder / "ca.key").read_bytes(), password=None
    )
    (issuer,) = certificates(folder / "ca.pem")
    pair = CA().issue(name, dns="agentcube-router")
    drawn = x509.load_pem_x509_certificate(pair.chain)
    public: ec.EllipticCurvePublicKey = drawn.public_key()  # type: ignore[assignment]
    now = dt.datetime.now(dt.UTC)  # noqa: TID251 - TLS compares with it
    builder = (
        x509.CertificateBuilder()
        .subject_name(drawn.subject)
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(int.from_bytes(os.urandom(8)))
        .not_valid_before(now - dt.timedelta(seconds=10))
        .not_valid_after(now + dt.timedelta(minutes=5))
    )
    for extension in drawn.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    certificate = builder.sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), pair.key)


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


@contextmanager
def refused(mesh: Up, door: Door, reason: str) -> Iterator[None]:
    """See that *door* logs one refusal in the block, for *reason*."""

    def reasons() -> list[str]:
        records = mesh.records(door.log)
        return [r["reason"] for r in records if r["event"] == "peer refused"]

    before = reasons()
    yield
    assert eventually(lambda: reasons()[len(before) :]) == [reason]
