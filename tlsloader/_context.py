"""TLS contexts of our own identity, and what a handshake proved."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from tlsloader._chain import chain_reason

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Literal

    from tlsloader._material import Material

__all__ = [
    "client_context",
    "handshake_reason",
    "peer_chain",
    "server_context",
]

_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which ``ssl.VerifyFlags`` does not name."""

_TLS_REASONS: Final = {
    "HTTP_REQUEST": "not_tls",
    "NO_PROTOCOLS_AVAILABLE": "tls_version",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "UNSUPPORTED_PROTOCOL": "tls_version",
    "WRONG_VERSION_NUMBER": "not_tls",
}


def server_context(
    material: Material,
    trust_domains: Collection[str],
    client_certificate: Literal["required", "optional"],
) -> ssl.SSLContext:
    """Make the context of a server that trusts the roots of *trust_domains* only."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, material, trust_domains)
    context.verify_mode = (
        ssl.CERT_REQUIRED if client_certificate == "required" else ssl.CERT_OPTIONAL
    )
    # A resumed session would bring back a proof that nobody checked again
    context.num_tickets = 0
    return context


def client_context(
    material: Material, trust_domains: Collection[str]
) -> ssl.SSLContext:
    """Make the context of a client that trusts the roots of *trust_domains* only."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, material, trust_domains)
    # The server is known by its SPIFFE ID, which ssl cannot check: verify_peer does
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(
    protocol: int, material: Material, trust_domains: Collection[str]
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    # A bundle's certificates are anchors, self-signed or not. Dates are judged by
    # verify_peer on the clock it was given: one clock, and a reason with the ID.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    _load_identity(context, material)
    roots = [
        certificate.public_bytes(Encoding.DER)
        for name in sorted(trust_domains)
        if (bundle := material.bundles.get(name)) is not None
        for certificate in bundle.certificates
    ]
    if roots:
        context.load_verify_locations(cadata=b"".join(roots))
    return context


def _load_identity(context: ssl.SSLContext, material: Material) -> None:
    """Load key and chain; ssl wants a file, and this one is never on a disk."""
    memory = os.memfd_create("identity", os.MFD_CLOEXEC)
    with os.fdopen(memory, "wb", buffering=0) as file:
        for part in (material.key, b"\n", material.chain):
            file.write(part)
        # An encrypted key must not ask at the terminal
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")


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
            if "_ALERT_" in reason:
                return "refused_by_peer"
            return _TLS_REASONS.get(reason, "handshake_failed")
        case TimeoutError():
            return "handshake_timeout"
        case _:
            return "hung_up"
