"""JWT-SVIDs for tests: good ones, and whatever else a key can sign."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tlsloader import JWTBundle
from tlsloader.strict import encode_base64url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["CURVES", "Minter"]

CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
_ENGINE = jwt.PyJWS()


class Minter:
    """A key of *trust_domain* that signs tokens by *algorithm*, as if it were *now*."""

    def __init__(
        self,
        trust_domain: str,
        now: datetime,
        *,
        algorithm: str = "ES256",
        kid: str = "key-1",
    ) -> None:
        self.trust_domain = trust_domain
        self.now = int(now.timestamp())
        self.algorithm = algorithm
        self.kid = kid
        self.key = (
            ec.generate_private_key(CURVES[algorithm])
            if algorithm in CURVES
            else rsa.generate_private_key(65537, 2048)
        )

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """Return the public key as an agent tells it, but for *changes*."""
        kind: Any = ECAlgorithm if self.algorithm in CURVES else RSAAlgorithm
        parts = kind.to_jwk(self.key.public_key(), as_dict=True)
        parts.pop("key_ops", None)
        return _changed({**parts, "kid": self.kid}, changes)

    def jwks(self, **changes: Any) -> bytes:
        """Return the JWK Set that an agent gives."""
        return json.dumps({"keys": [self.jwk(**changes)]}).encode()

    @property
    def bundle(self) -> JWTBundle:
        return JWTBundle.parse(self.trust_domain, self.jwks())

    def claims(self, identity: str, audience: str, **changes: Any) -> dict[str, Any]:
        """Return good claims but for *changes*; ``None`` leaves one out."""
        good = {
            "sub": identity,
            "aud": [audience],
            "exp": self.now + 300,
            "iat": self.now,
        }
        return _changed(good, changes)

    def header(self, **changes: Any) -> dict[str, Any]:
        """Return a good header but for *changes*; ``None`` leaves one out."""
        good = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"}
        return _changed(good, changes)

    def token(self, identity: str, audience: str, **changes: Any) -> str:
        """Return a good token but for *changes* of its claims."""
        claims = json.dumps(self.claims(identity, audience, **changes)).encode()
        return self.signed(self.header(), claims)

    def signed(self, header: object, payload: bytes) -> str:
        """Return any *header* and *payload*, truly signed by our algorithm."""
        parts = (json.dumps(header).encode(), payload)
        text = ".".join(encode_base64url(part) for part in parts)
        engine: Any = _ENGINE.get_algorithm_by_name(self.algorithm)
        signature = engine.sign(text.encode(), self.key)
        return f"{text}.{encode_base64url(signature)}"


def _changed(good: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {**good, **changes}
    return {name: value for name, value in both.items() if value is not None}
