"""JSON Web Keys of the two kinds we take, and nothing beside them.

Source: RFC 7517; RFC 7518, section 6.2; RFC 8037, section 2; RFC 7638.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from tlsloader.strict import decode_base64url, encode_base64url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "Algorithm",
    "PrivateKey",
    "PublicKey",
    "check_purpose",
    "part",
    "thumbprint",
]

Algorithm = Literal["ES256", "EdDSA"]
_BYTES = 32
_KID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_KINDS: Mapping[tuple[Any, Any], Algorithm] = {
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies; its algorithm is fixed by its kind, never by a token."""

    kid: str
    algorithm: Algorithm
    key: ec.EllipticCurvePublicKey | Ed25519PublicKey

    @classmethod
    def parse(cls, jwk: Mapping[str, Any]) -> PublicKey:
        """Return the key in *jwk*, which has to be meant for verifying.

        Raises:
            ValueError: another kind of key, another use, a private key, a malformed
                or missing part.
        """
        algorithm = _kind_of(jwk)
        if "d" in jwk:
            raise ValueError("a private key among public ones")
        check_purpose(jwk, "verify")
        return cls(_kid_of(jwk), algorithm, _public(jwk, algorithm))

    @property
    def algorithms(self) -> frozenset[str]:
        """The one algorithm, as `Jws` asks for it."""
        return frozenset((self.algorithm,))

    def dump(self) -> dict[str, str]:
        """Return the JWK that `parse` reads."""
        parts = {"kid": self.kid, "alg": self.algorithm, "use": "sig"}
        return parts | _public_parts(self.key)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs; *published* is when its public half was, in epoch seconds."""

    kid: str
    algorithm: Algorithm
    key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey = field(repr=False)
    published: int

    @classmethod
    def generate(cls, algorithm: Algorithm, published: int) -> PrivateKey:
        """Return a fresh key, named by its thumbprint."""
        key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else Ed25519PrivateKey.generate()
        )
        return cls(thumbprint(key.public_key()), algorithm, key, published)

    @property
    def public(self) -> PublicKey:
        """The half for verifiers."""
        return PublicKey(self.kid, self.algorithm, self.key.public_key())

    @classmethod
    def parse(cls, jwk: Mapping[str, Any]) -> PrivateKey:
        """Return the key in *jwk*, whose halves have to belong together.

        Raises:
            ValueError: as `PublicKey.parse`, or there is no private half.
        """
        algorithm = _kind_of(jwk)
        check_purpose(jwk, "sign")
        published = jwk.get("published", 0)
        if type(published) is not int or published < 0:
            raise ValueError("published is not a time")
        secret = part(jwk, "d")
        key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey = (
            ec.derive_private_key(int.from_bytes(secret), ec.SECP256R1())
            if algorithm == "ES256"
            else Ed25519PrivateKey.from_private_bytes(secret)
        )
        if key.public_key() != _public(jwk, algorithm):
            raise ValueError("the halves of the key do not match")
        return cls(_kid_of(jwk), algorithm, key, published)

    def dump(self) -> dict[str, Any]:
        """Return the JWK that `parse` reads; secret."""
        if isinstance(self.key, Ed25519PrivateKey):
            secret = self.key.private_bytes_raw()
        else:
            secret = self.key.private_numbers().private_value.to_bytes(_BYTES)
        return self.public.dump() | {
            "d": encode_base64url(secret),
            "published": self.published,
        }


def thumbprint(key: ec.EllipticCurvePublicKey | Ed25519PublicKey) -> str:
    """Return the SHA-256 thumbprint. Source: RFC 7638."""
    text = json.dumps(_public_parts(key), separators=(",", ":"), sort_keys=True)
    return encode_base64url(hashlib.sha256(text.encode()).digest())


def _kind_of(jwk: Mapping[str, Any]) -> Algorithm:
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if not (isinstance(kty, str) and isinstance(crv, str)):
        raise ValueError("not an elliptic-curve key")  # noqa: TRY004
    algorithm = _KINDS.get((kty, crv))
    if algorithm is None:
        raise ValueError("neither a P-256 nor an Ed25519 key")
    if jwk.get("alg", algorithm) != algorithm:
        raise ValueError("the key is meant for another algorithm")
    return algorithm


def check_purpose(
    jwk: Mapping[str, Any], operation: str, *, uses: Sequence[str] = ("sig",)
) -> None:
    """Refuse a key that says it is for something else.

    Raises:
        ValueError: it is for none of *uses*, or not for that *operation*.

    Source: RFC 7517, sections 4.2 and 4.3.
    """
    if jwk.get("use", "sig") not in uses:
        raise ValueError("the key is not meant for signatures")
    operations = jwk.get("key_ops", [operation])
    if not isinstance(operations, list) or operation not in operations:
        raise ValueError(f"the key is not meant to {operation}")


def _kid_of(jwk: Mapping[str, Any]) -> str:
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise ValueError("the kid is missing or malformed")
    return kid


def part(jwk: Mapping[str, Any], name: str, size: int | None = _BYTES) -> bytes:
    """Return the bytes of the member *name*, *size* of them.

    Raises:
        ValueError: it is missing, or not such bytes in base64url.
    """
    text = jwk.get(name)
    if not isinstance(text, str):
        raise ValueError(f"{name} is missing")  # noqa: TRY004
    raw = decode_base64url(text)
    if size is not None and len(raw) != size:
        raise ValueError(f"{name} is not {size} bytes long")
    return raw


def _public(
    jwk: Mapping[str, Any], algorithm: Algorithm
) -> ec.EllipticCurvePublicKey | Ed25519PublicKey:
    x = part(jwk, "x")
    if algorithm == "EdDSA":
        return Ed25519PublicKey.from_public_bytes(x)
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x), int.from_bytes(part(jwk, "y")), ec.SECP256R1()
    )
    return numbers.public_key()


def _public_parts(key: ec.EllipticCurvePublicKey | Ed25519PublicKey) -> dict[str, str]:
    if isinstance(key, Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(_raw(key))}
    numbers = key.public_numbers()
    x, y = (encode_base64url(n.to_bytes(_BYTES)) for n in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
