"""Signed tokens in the one strict form we take. Source: RFC 7515; RFC 8725."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import jwt

from auth._errors import TokenRefusedError
from tlsloader.strict import decode_base64url, parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from auth._jwk import PrivateKey

__all__ = ["MAX_BYTES", "Jws", "Proving", "sign"]

MAX_BYTES: Final = 8192
_EXTENSIONS: Final = frozenset(("b64", "crit", "jku", "jwk", "x5c", "x5u", "zip"))
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ENGINES: Final[Mapping[str, jwt.PyJWS]] = {
    name: jwt.PyJWS(algorithms=[name])
    for name in ("ES256", "ES384", "ES512", "EdDSA", *_RSA)
}


class Proving(Protocol):
    """A public key and the algorithms that it may be used with."""

    @property
    def algorithms(self) -> frozenset[str]:
        """Set by the kind of the key, never by a token."""

    @property
    def key(self) -> Any:
        """The key itself."""


@dataclass(frozen=True, slots=True)
class Jws:
    """A token taken apart; nothing of it is proven yet."""

    text: str
    header: Mapping[str, Any]
    payload: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take *text* apart: three parts of canonical base64url, the first JSON.

        Raises:
            TokenRefusedError: it is longer than `MAX_BYTES` or of another form, or
                the header names an extension or a key of its own.
        """
        if len(text) > MAX_BYTES:
            raise TokenRefusedError("malformed", f"longer than {MAX_BYTES} bytes")
        parts = text.split(".")
        if len(parts) != len(("header", "payload", "signature")):
            raise TokenRefusedError("malformed", "the token has not three parts")
        try:
            raw, payload, _signature = map(decode_base64url, parts)
            header = parse_object(raw, MAX_BYTES)
        except ValueError as error:
            raise TokenRefusedError("malformed", f"the token: {error}") from None
        if strange := header.keys() & _EXTENSIONS:
            text = f"the header holds {', '.join(sorted(strange))}"
            raise TokenRefusedError("strange_header", text)
        return cls(text, header, payload)

    def payload_proven_by(self, key: Proving) -> bytes:
        """Return the payload if *key* signed it, by an algorithm of the key.

        Raises:
            TokenRefusedError: it did not.
        """
        algorithm = self.header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in key.algorithms:
            text = "the key is not of the algorithm in the header"
            raise TokenRefusedError("wrong_algorithm", text)
        try:
            _ENGINES[algorithm].decode(self.text, key.key, algorithms=[algorithm])
        except jwt.PyJWTError:
            text = "the signature does not fit"
            raise TokenRefusedError("bad_signature", text) from None
        return self.payload


def sign(payload: bytes, key: PrivateKey, kind: str) -> str:
    """Return *payload* signed by *key*, with a header of ``alg``, ``kid``, ``typ``."""
    return _ENGINES[key.algorithm].encode(
        payload,
        key.key,
        algorithm=key.algorithm,
        headers={"kid": key.kid, "typ": kind},
    )
