"""By what JWT-SVIDs are judged, and those that are our own.

Source: JWT-SVID standard; SPIFFE Trust Domain and Bundle, section 4.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from tlsloader._bundle import TrustBundle
from tlsloader._errors import InvalidSpiffeIDError, MaterialError
from tlsloader._jwks import parse_document, parse_jwks
from tlsloader._spiffe import SpiffeID
from tlsloader.strict import decode_base64url, parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlsloader._jwks import Jwk

__all__ = ["JWTSVID", "BundleDocument", "JWTBundle"]

_MAX_TOKEN: Final = 16_384
_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class JWTBundle:
    """The public keys that sign JWT-SVIDs of one trust domain; never merged.

    ``keys`` are JSON Web Keys by their ID, as they were published: whoever verifies
    by one reads it first. A bundle without keys trusts nobody.
    """

    trust_domain: str
    keys: Mapping[str, Jwk] = field(repr=False, compare=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps(dict(self.keys), sort_keys=True)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))
        object.__setattr__(self, "fingerprint", fingerprint)

    @classmethod
    def parse(cls, trust_domain: str, jwks: bytes, *, name: str = "the keys") -> Self:
        """Return the bundle of *trust_domain* that the JWK Set *jwks* holds.

        Raises:
            MaterialError: it is no such set; *name* is what to call it.
        """
        return cls(trust_domain, parse_jwks(jwks, name))


@dataclass(frozen=True, slots=True)
class BundleDocument:
    """A SPIFFE bundle as it is published, of one trust domain.

    ``sequence`` grows with each change, if the publisher counts; ``refresh_hint`` is
    in how many seconds to look again.
    """

    x509: TrustBundle
    jwt: JWTBundle
    sequence: int | None
    refresh_hint: int

    @classmethod
    def parse(cls, trust_domain: str, data: bytes, *, name: str = "the bundle") -> Self:
        """Return what the document *data*, of *trust_domain*, says.

        Raises:
            MaterialError: it is no such document, or one of its roots may not sign
                for that domain; *name* is what to call it.
        """
        document = parse_document(data, name)
        return cls(
            TrustBundle.parse(trust_domain, data, name=name),
            JWTBundle(trust_domain, document.jwt_keys),
            document.sequence,
            document.refresh_hint,
        )


@dataclass(frozen=True, slots=True)
class JWTSVID:
    """A token that proves *identity* to *audience* until it *expires*; a secret."""

    identity: SpiffeID
    audience: tuple[str, ...]
    expires: datetime
    token: str = field(repr=False)

    @classmethod
    def parse(cls, token: str) -> Self:
        """Return what *token* says; nothing of it is proven here.

        Raises:
            MaterialError: it does not say what a JWT-SVID says.
        """
        claims = _claims(token)
        audience = claims.get("aud")
        texts = [audience] if isinstance(audience, str) else audience
        if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise _fault("it names no audience")
        expires = claims.get("exp")
        if type(expires) is not int:
            raise _fault("it does not say when it expires")
        try:
            identity = SpiffeID.parse(str(claims.get("sub", "")))
            end = datetime.fromtimestamp(expires, UTC)
        except (InvalidSpiffeIDError, ValueError, OverflowError, OSError) as error:
            raise _fault(str(error)) from error
        return cls(identity, tuple(texts), end, token)


def _claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != len(("header", "payload", "signature")):
        raise _fault("it has not three parts")
    try:
        return parse_object(decode_base64url(parts[1]), _MAX_TOKEN, depth=_DEPTH)
    except ValueError as error:
        raise _fault(str(error)) from error


def _fault(fault: str) -> MaterialError:
    text = f"the agent gave a token that is no JWT-SVID: {fault}; see its version"
    return MaterialError("bad_token", text)
