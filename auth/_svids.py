"""JWT-SVIDs of others, judged by the bundle of their own trust domain.

Source: JWT-SVID standard; RFC 8725.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from auth._bounded import Bounded
from auth._errors import TokenRefusedError
from auth._jws import MAX_BYTES, Jws
from auth._svid_keys import SvidKey
from clock import SYSTEM
from tlsloader import InvalidSpiffeIDError, SpiffeID
from tlsloader.strict import parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clock import Clock
    from tlsloader import JWTBundle

__all__ = ["JWTBundles", "JWTSVIDVerifier", "VerifiedSVID"]

_HEADER: Final = frozenset(("alg", "kid", "typ"))
_TYPES: Final = ("JWT", "JOSE")
_LONGEST_ID: Final = 256
_MOST_AUDIENCES: Final = 64
_DEPTH: Final = 8
_MAX_LEEWAY: Final = 60


class JWTBundles(Protocol):
    """Gives the newest JWT bundles; `tlsloader.jwt_bundles.JWTBundleSource` is one."""

    def current(self) -> Mapping[str, JWTBundle]:
        """Return them by trust domain."""


@dataclass(frozen=True, slots=True)
class VerifiedSVID:
    """What a JWT-SVID that was proven says; times in epoch seconds.

    ``claims`` are all of its claims, also those that nobody but its issuer defines.
    """

    identity: SpiffeID
    audience: tuple[str, ...]
    expires: int
    not_before: int | None
    issued: int | None
    claims: Mapping[str, Any] = field(repr=False, compare=False)


class JWTSVIDVerifier:
    """Verify JWT-SVIDs for *audience*; each once per state of its bundle.

    A token is good for whoever holds it, as often as he likes, until it expires: only
    take it over a connection that nobody can listen to.

    Args:
        bundles: where the keys of each trust domain are.
        audience: the name by which we are meant.
        clock: what tells the time.
        leeway: seconds that the clocks of issuer and verifier may differ, 60 at most.
        max_life: seconds that a token may live at most.
        cache: how many verdicts to remember.
    """

    def __init__(  # noqa: PLR0913 -- of which four are figures
        self,
        bundles: JWTBundles,
        audience: str,
        *,
        clock: Clock = SYSTEM,
        leeway: int = 5,
        max_life: int = 86_400,
        cache: int = 1024,
    ) -> None:
        if not audience:
            raise ValueError("a verifier has a name")
        if not 0 <= leeway <= _MAX_LEEWAY:
            raise ValueError(f"clocks differ by at most {_MAX_LEEWAY} s")
        self._bundles, self._audience, self._clock = bundles, audience, clock
        self._leeway, self._max_life = leeway, max_life
        self._cache: Bounded[bytes, tuple[VerifiedSVID, str]] = Bounded(cache)

    def verify(self, token: str) -> VerifiedSVID:
        """Return what *token* says, if all of it holds now.

        Raises:
            TokenRefusedError: it does not hold; its ``reason`` says why.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._cache.get(digest)
        if known is None or known[1] != self._fingerprint(known[0].identity):
            known = self._proven(token)
        self._check(known[0])
        self._cache.put(digest, known)
        return known[0]

    def _fingerprint(self, identity: SpiffeID) -> str | None:
        bundle = self._bundles.current().get(identity.trust_domain)
        return bundle.fingerprint if bundle else None

    def _proven(self, token: str) -> tuple[VerifiedSVID, str]:
        jws = Jws.parse(token)
        kid = _key_id(jws.header)
        said = _read(jws.payload)  # only to learn whose keys to look at
        bundle = self._bundles.current().get(said.identity.trust_domain)
        if bundle is None:
            domain = said.identity.trust_domain
            _refuse("no_bundle", f"there are no keys of the trust domain {domain}")
        jwk = bundle.keys.get(kid)
        if jwk is None:
            _refuse("unknown_key", "its trust domain has no key of that ID")
        try:
            key = SvidKey.parse(jwk)
        except ValueError as error:
            _refuse("unusable_key", f"the key of that ID is no use: {error}")
        jws.payload_proven_by(key)
        return said, bundle.fingerprint

    def _check(self, svid: VerifiedSVID) -> None:
        now = self._clock.now().timestamp()
        if self._audience not in svid.audience:
            _refuse("wrong_audience", "the token is for somebody else")
        if svid.expires + self._leeway <= now:
            _refuse("expired", "the token has expired")
        if svid.not_before is not None and svid.not_before > now + self._leeway:
            _refuse("not_yet_valid", "the token is not valid yet")
        if svid.issued is not None and svid.issued > now + self._leeway:
            _refuse("issued_in_the_future", "the token is from the future")
        start = now if svid.issued is None else svid.issued
        if svid.expires - start > self._max_life:
            _refuse("too_long_lived", f"the token lives more than {self._max_life} s")


def _key_id(header: Mapping[str, Any]) -> str:
    """Return the key ID in *header*. Source: JWT-SVID standard, sections 2 to 2.3."""
    if strange := header.keys() - _HEADER:
        _refuse("strange_header", f"the header holds {', '.join(sorted(strange))}")
    if header.get("typ", "JWT") not in _TYPES:
        _refuse("wrong_type", "the token is neither a JWT nor JOSE")
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= _LONGEST_ID:
        _refuse("no_key_id", "the header does not say by which key it was signed")
    return kid


def _read(payload: bytes) -> VerifiedSVID:
    """Return what *payload* says. Source: JWT-SVID standard, section 3."""
    try:
        said = parse_object(payload, MAX_BYTES, depth=_DEPTH)
    except ValueError as error:
        _refuse("strange_claims", f"the claims: {error}")
    expires = _time(said, "exp")
    if expires is None:
        _refuse("no_expiry", "the token does not say when it expires")
    return VerifiedSVID(
        _subject(said),
        _audience(said),
        expires,
        _time(said, "nbf"),
        _time(said, "iat"),
        MappingProxyType(said),
    )


def _subject(said: Mapping[str, Any]) -> SpiffeID:
    subject = said.get("sub")
    if not isinstance(subject, str):
        _refuse("no_subject", "the token does not say whose it is")
    try:
        identity = SpiffeID.parse(subject)
    except InvalidSpiffeIDError as error:
        _refuse("not_spiffe", f"the subject: {error}")
    if not identity.path:
        _refuse("no_path", f"{identity} is a trust domain, no workload")
    return identity


def _audience(said: Mapping[str, Any]) -> tuple[str, ...]:
    audience = said.get("aud")
    texts = [audience] if isinstance(audience, str) else audience
    if not isinstance(texts, list) or not 0 < len(texts) <= _MOST_AUDIENCES:
        _refuse("no_audience", "the token does not say whom it is for")
    if not all(isinstance(text, str) for text in texts):
        _refuse("no_audience", "the token is for something that is no text")
    return tuple(texts)


def _time(said: Mapping[str, Any], name: str) -> int | None:
    value = said.get(name)
    if value is not None and type(value) is not int:
        _refuse("strange_claims", f"{name} is no number of seconds")
    return value


def _refuse(reason: str, text: str) -> NoReturn:
    raise TokenRefusedError(reason, text)
