"""Session tokens: the Router's word to one sandbox about one caller.

A JWS in compact form whose header is exactly ``alg``, ``kid``, ``typ`` and whose
claims are exactly those of `Claims`. Whatever else it says is refused, so no
extension can change what we understand. Source: RFC 7515; RFC 8725.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from auth._bounded import Bounded
from auth._errors import TokenRefusedError
from auth._jws import MAX_BYTES, Jws, sign
from auth._keys import MAX_LIFE
from auth._principal import Principal
from clock import SYSTEM
from tlsloader.strict import parse_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from auth._jwk import PrivateKey, PublicKey
    from auth._public import KeySet, PublicKeys
    from clock import Clock

__all__ = ["ISSUER", "Claims", "Signer", "Verifier", "bearer"]

ISSUER: Final = "agentcube-router"
_TYPE: Final = "cubemesh-session+jwt"
_LEEWAY = 5  # seconds that the clocks of Router and PicoD may differ
_HEADER = {"alg", "kid", "typ"}
_CLAIMS = {"iss", "aud", "sub", "sub_iss", "name", "sid", "iat", "exp"}
_NUMBERS = {"iat", "exp"}
_SESSION = re.compile(r"ses-[a-z2-7]{26}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says; times in epoch seconds."""

    audience: str
    session_id: str
    principal: Principal
    issued: int
    expires: int


class _Keys(Protocol):
    @property
    def signing(self) -> PrivateKey: ...

    @property
    def kids(self) -> frozenset[str]: ...


class Signer:
    """Make tokens, one per (session, sandbox, principal) until it is nearly over."""

    def __init__(
        self,
        keys: _Keys,
        *,
        life: int = MAX_LIFE,
        clock: Clock = SYSTEM,
        cache: int = 8192,
    ) -> None:
        if not 0 < life <= MAX_LIFE:
            raise ValueError(f"a token lives at most {MAX_LIFE} s")
        self._keys, self._life, self._clock = keys, life, clock
        self._cache: Bounded[tuple[str, str, Principal], _Signed] = Bounded(cache)

    def token(self, session_id: str, sandbox_id: str, principal: Principal) -> str:
        """Return a token by which *principal* may use that one sandbox.

        Raises:
            KeysError: no key may sign yet.
        """
        now = self._clock.now().timestamp()
        known = self._cache.get(asked := (session_id, sandbox_id, principal))
        if known is not None and known.usable(now, self._keys.kids):
            return known.token
        fresh = self._sign(session_id, sandbox_id, principal, int(now))
        self._cache.put(asked, fresh)
        return fresh.token

    def _sign(
        self, session_id: str, sandbox_id: str, principal: Principal, now: int
    ) -> _Signed:
        key = self._keys.signing
        claims = {
            "iss": ISSUER,
            "aud": sandbox_id,
            "sub": principal.subject,
            "sub_iss": principal.issuer,
            "name": principal.display,
            "sid": session_id,
            "iat": now,
            "exp": now + self._life,
        }
        payload = json.dumps(claims, separators=(",", ":")).encode()
        token = sign(payload, key, _TYPE)
        return _Signed(token, key.kid, now + self._life - self._life / 4)


@dataclass(frozen=True, slots=True)
class _Signed:
    token: str
    kid: str
    stale: float

    def usable(self, now: float, kids: frozenset[str]) -> bool:
        return now < self.stale and self.kid in kids


class Verifier:
    """Verify tokens for one sandbox, *audience*; each once per set of keys."""

    def __init__(
        self,
        keys: PublicKeys,
        audience: str,
        *,
        clock: Clock = SYSTEM,
        cache: int = 1024,
    ) -> None:
        self._keys, self._audience, self._clock = keys, audience, clock
        self._cache: Bounded[tuple[bytes, int], Claims] = Bounded(cache)

    def verify(self, token: str, *, session_id: str | None = None) -> Claims:
        """Return what *token* says, if all of it holds now.

        *session_id*: the session the sandbox is bound to; another one is refused.

        Raises:
            TokenRefusedError: it does not hold; its ``reason`` says why.
        """
        keys = self._keys.current()
        if len(token) > MAX_BYTES:
            _refuse("malformed", f"the token is longer than {MAX_BYTES} bytes")
        raw = token.encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(raw).digest(), keys.generation
        claims = self._cache.get(digest)
        if claims is None:
            jws = Jws.parse(token)
            claims = _claims_of(jws.payload_proven_by(_key_of(jws.header, keys)))
        self._check(claims, session_id)
        self._cache.put(digest, claims)
        return claims

    def _check(self, claims: Claims, session_id: str | None) -> None:
        now = self._clock.now().timestamp()
        if claims.audience != self._audience:
            _refuse("wrong_audience", "the token is for another sandbox")
        if claims.issued > now + _LEEWAY:
            _refuse("issued_in_the_future", "the token is from the future")
        if claims.expires + _LEEWAY <= now:
            _refuse("expired", "the token has expired")
        if not 0 < claims.expires - claims.issued <= MAX_LIFE:
            _refuse("too_long_lived", f"the token lives more than {MAX_LIFE} s")
        if session_id is not None and claims.session_id != session_id:
            _refuse("wrong_session", "the token is for another session")


def _key_of(header: Mapping[str, Any], keys: KeySet) -> PublicKey:
    if header.keys() != _HEADER:
        _refuse("strange_header", "the header is not alg, kid, typ")
    if header["typ"] != _TYPE:
        _refuse("wrong_type", f"the token is not a {_TYPE}")
    kid = header["kid"]
    key = keys.keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        _refuse("unknown_key", "no published key has that name")
    return key


def _claims_of(payload: bytes) -> Claims:
    try:
        said = parse_object(payload, MAX_BYTES)
        if said.keys() != _CLAIMS:
            _refuse("strange_claims", "a claim is missing or strange")
        for name, value in said.items():
            if type(value) is not (int if name in _NUMBERS else str):
                _refuse("strange_claims", f"{name} is of the wrong type")
        principal = Principal(said["sub_iss"], said["sub"], said["name"])
    except ValueError as error:
        _refuse("strange_claims", f"the claims: {error}")
    if said["iss"] != ISSUER:
        _refuse("wrong_issuer", f"the issuer is not {ISSUER}")
    if not _SESSION.fullmatch(said["sid"]):
        _refuse("strange_claims", "sid is not a session id")
    return Claims(said["aud"], said["sid"], principal, said["iat"], said["exp"])


def bearer(metadata: Iterable[tuple[str, Any]]) -> str:
    """Return the one bearer token in a call's *metadata*.

    Raises:
        TokenRefusedError: there is none (``no_token``), or more than one.
    """
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        _refuse("no_token", "the call carries no token")
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token:
        _refuse("malformed", "not exactly one bearer token")
    return str(token)


def _refuse(reason: str, text: str) -> NoReturn:
    raise TokenRefusedError(reason, text)
