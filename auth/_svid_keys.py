"""The public keys that may sign JWT-SVIDs.

Source: JWT-SVID standard, section 2.1; RFC 7518, sections 3 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from auth._jwk import check_purpose, part

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SvidKey"]

_USES: Final = ("jwt-svid", "sig")
_CURVES: Final[Mapping[str, tuple[str, ec.EllipticCurve]]] = {
    "P-256": ("ES256", ec.SECP256R1()),
    "P-384": ("ES384", ec.SECP384R1()),
    "P-521": ("ES512", ec.SECP521R1()),
}
_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_RSA_BITS: Final = range(2048, 8192 + 1)
_EXPONENT_BITS: Final = range(17, 32 + 1)  # 65537 is the smallest that anybody uses


@dataclass(frozen=True, slots=True)
class SvidKey:
    """A key that verifies JWT-SVIDs, by the algorithms of its kind and no others."""

    algorithms: frozenset[str]
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey

    @classmethod
    def parse(cls, jwk: Mapping[str, Any]) -> SvidKey:
        """Return the key in *jwk*.

        Raises:
            ValueError: it is of another kind or for another use, too weak, private,
                or malformed.
        """
        if "d" in jwk:
            raise ValueError("a private key among public ones")
        check_purpose(jwk, "verify", uses=_USES)
        match jwk.get("kty"):
            case "EC":
                return cls(*_narrowed(jwk, *_elliptic(jwk)))
            case "RSA":
                return cls(*_narrowed(jwk, _RSA, _rsa(jwk)))
        raise ValueError("neither an EC nor an RSA key")


def _narrowed(
    jwk: Mapping[str, Any],
    algorithms: frozenset[str],
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
) -> tuple[frozenset[str], ec.EllipticCurvePublicKey | rsa.RSAPublicKey]:
    """Return *algorithms* and *key*, held to the one that *jwk* names, if it does."""
    named = jwk.get("alg")
    if named is None:
        return algorithms, key
    if not isinstance(named, str) or named not in algorithms:
        raise ValueError("the key is meant for another algorithm")
    return frozenset((named,)), key


def _elliptic(
    jwk: Mapping[str, Any],
) -> tuple[frozenset[str], ec.EllipticCurvePublicKey]:
    found = _CURVES.get(str(jwk.get("crv")))
    if found is None:
        raise ValueError("none of the curves P-256, P-384 and P-521")
    algorithm, curve = found
    size = (curve.key_size + 7) // 8
    x, y = (int.from_bytes(part(jwk, name, size)) for name in ("x", "y"))
    key = ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    return frozenset((algorithm,)), key


def _rsa(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey:
    n, e = (part(jwk, name, None) for name in ("n", "e"))
    if n[:1] == b"\0" or e[:1] == b"\0":
        raise ValueError("a number that begins with zeros")
    modulus, exponent = int.from_bytes(n), int.from_bytes(e)
    if modulus.bit_length() not in _RSA_BITS:
        raise ValueError("not of 2048 to 8192 bits")
    if exponent.bit_length() not in _EXPONENT_BITS:
        raise ValueError("an unusual exponent")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()
