"""Which keys and signatures a certificate may have; the chain verifier takes any.

Those that TLS 1.3 signs with. Source: RFC 8446, section 4.2.3; NIST SP 800-131A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import SignatureAlgorithmOID

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["key_fault", "signature_fault"]

_CURVES: Final = frozenset(("secp256r1", "secp384r1", "secp521r1"))
_RSA_BITS: Final = range(2048, 8192 + 1)  # what is longer only costs us time
_HASHES: Final = frozenset(("sha256", "sha384", "sha512"))


def key_fault(certificate: x509.Certificate) -> str | None:
    """Return what is wrong with the key of *certificate*, if anything."""
    try:
        match certificate.public_key():
            case ec.EllipticCurvePublicKey(curve=curve) if curve.name in _CURVES:
                return None
            case rsa.RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
                return None
            case ed25519.Ed25519PublicKey():
                return None
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"its key cannot be read ({error})"
    return (
        "its key is neither ECDSA (P-256, P-384, P-521), nor RSA of 2048 to 8192 bits, "
        "nor Ed25519"
    )


def signature_fault(certificate: x509.Certificate) -> str | None:
    """Return what is wrong with the algorithm that signed *certificate*, if anything.

    Whether the signature is right is not asked here.
    """
    if certificate.signature_algorithm_oid == SignatureAlgorithmOID.ED25519:
        return None
    try:
        digest = certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm) as error:
        return f"its signature is of an unknown algorithm ({error})"
    if digest is None or digest.name not in _HASHES:
        return "it is not signed by SHA-256, SHA-384, SHA-512 or Ed25519"
    return None
