"""TLS contexts of our own identity, and what a handshake proved."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from tlsloader._chain import chain_reason

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tlsloader._material import Material

__all__ = [
    "TLSVersion",
    "client_context",
    "handshake_reason",
    "peer_chain",
    "server_context",
    "shared_client_context",
]

TLSVersion = Literal["1.2", "1.3"]
"""The lowest version of TLS that a connection may have."""

_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: a fresh key per connection, and encryption that authenticates.

Those that HTTP/2 allows. Source: RFC 9113, section 9.2.2 and appendix A.
"""

_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which ``ssl.VerifyFlags`` does not name."""

_TLS_REASONS: Final = {
    "HTTP_REQUEST": "not_tls",
    "NO_PROTOCOLS_AVAILABLE": "tls_version",
    "NO_SHARED_CIPHER": "no_shared_cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "tls_version",
    "UNSUPPORTED_PROTOCOL": "tls_version",
    "WRONG_VERSION_NUMBER": "not_tls",
}


def server_context(
    material: Material,
    trust_domains: Collection[str],
    client_certificate: Literal["required", "optional"],
    minimum: TLSVersion = "1.3",
) -> ssl.SSLContext:
    """Make the context of a server that trusts the roots of *trust_domains* only.

    With TLS 1.2 it must serve one connection only: OpenSSL remembers sessions in
    their context, Python cannot forbid that, and one that is resumed would bring
    back a proof that nobody has checked again.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, material, trust_domains, minimum)
    context.verify_mode = (
        ssl.CERT_REQUIRED if client_certificate == "required" else ssl.CERT_OPTIONAL
    )
    # The same for TLS 1.3, where sessions come back by tickets alone
    context.num_tickets = 0
    return context


def client_context(
    material: Material, trust_domains: Collection[str], minimum: TLSVersion = "1.3"
) -> ssl.SSLContext:
    """Make the context of a client that trusts the roots of *trust_domains* only."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, material, trust_domains, minimum)
    # The server is known by its SPIFFE ID, which ssl cannot check: verify_peer does
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


# Making one takes 0.8 ms and 24 KiB: a rotation must not cost a thousand dialers that.
# Few are kept, so that the keys of old generations are forgotten.
shared_client_context = lru_cache(maxsize=4)(client_context)


def _context(
    protocol: int,
    material: Material,
    trust_domains: Collection[str],
    minimum: TLSVersion,
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = _MINIMUM[minimum]
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2"])
    context.options |= (
        ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    )
    # A bundle's certificates are anchors, self-signed or not. Dates are judged by
    # verify_peer on the clock it was given: one clock, and a reason with the ID.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    roots = [
        certificate
        for name in sorted(trust_domains)
        if (bundle := material.bundles.get(name)) is not None
        for certificate in bundle.certificates
    ]
    _load_identity(context, material, roots)
    if roots:
        ders = (root.public_bytes(Encoding.DER) for root in roots)
        context.load_verify_locations(cadata=b"".join(ders))
    return context


def _load_identity(
    context: ssl.SSLContext, material: Material, roots: Sequence[x509.Certificate]
) -> None:
    """Load key and chain; ssl wants a file, and this one is never on a disk."""
    memory = os.memfd_create("identity", os.MFD_CLOEXEC)
    with os.fdopen(memory, "wb", buffering=0) as file:
        for part in (material.key, b"\n", material.chain, _behind(material, roots)):
            file.write(part)
        # An encrypted key must not ask at the terminal
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")


def _behind(material: Material, roots: Sequence[x509.Certificate]) -> bytes:
    """Return, as PEM, the one of our *roots* that signed a chain of a leaf alone.

    OpenSSL shows it in any case. Had it to find it, it would do so, and verify the
    path, at each handshake.
    """
    leaf, *signers = x509.load_pem_x509_certificates(material.chain)
    for root in () if signers else roots:
        with suppress(ValueError, TypeError, InvalidSignature):
            leaf.verify_directly_issued_by(root)
            return root.public_bytes(Encoding.PEM)
    return b""


def peer_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the chain that the peer presented, leaf first, as DER.

    Public from Python 3.13 on (``get_unverified_chain``); before, the same method of
    the object inside gives the same certificates.
    """
    if tls.getpeercert(binary_form=True) is None:
        return ()
    if hasattr(tls, "get_unverified_chain"):
        return tuple(tls.get_unverified_chain())
    inner: Any = tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
    return tuple(
        ssl.PEM_cert_to_DER_cert(certificate.public_bytes())
        for certificate in inner.get_unverified_chain()
    )


def handshake_reason(error: BaseException) -> str:
    """Say in one stable word why a handshake failed."""
    match error:
        case ssl.SSLCertVerificationError():
            return chain_reason(error.verify_code)
        case ssl.SSLError():
            reason = error.reason or ""
            if reason in _TLS_REASONS:
                return _TLS_REASONS[reason]
            return "refused_by_peer" if "_ALERT_" in reason else "handshake_failed"
        case TimeoutError():
            return "handshake_timeout"
        case _:
            return "hung_up"
