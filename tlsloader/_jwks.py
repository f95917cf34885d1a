"""SPIFFE bundles as documents: a JWK Set that says what each key is for.

Source: SPIFFE Trust Domain and Bundle, section 4; X509-SVID, section 6; JWT-SVID,
section 6; RFC 7517, section 5.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from tlsloader._errors import MaterialError
from tlsloader.strict import parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Document", "Jwk", "looks_like_one", "parse_document", "parse_jwks"]

Jwk = dict[str, Any]
_MAX_BYTES: Final = 1 << 20
_MAX_KEYS: Final = 256
_KNOWN_TYPES: Final = ("EC", "OKP", "RSA")
_TOKEN_USES: Final = ("jwt-svid", "sig")
_DEFAULT_HINT: Final = 300


@dataclass(frozen=True, slots=True)
class Document:
    """What one bundle document holds, of the kinds that we know.

    ``refresh_hint`` is in seconds, five minutes if the document does not say;
    ``sequence`` grows with each change, if the publisher counts them.
    """

    roots: Sequence[x509.Certificate]
    jwt_keys: Mapping[str, Jwk]
    sequence: int | None = None
    refresh_hint: int = _DEFAULT_HINT


def looks_like_one(data: bytes) -> bool:
    """Say whether *data* is to be read as a document rather than as PEM."""
    return data.lstrip()[:1] == b"{"


def parse_document(data: bytes, name: str) -> Document:
    """Return what the bundle document *data* holds.

    Keys of unknown types or for unknown uses are passed over; none at all is a bundle
    that trusts nobody.

    Raises:
        MaterialError: it is no such document, or a key in it is not what it says;
            *name* is what to call it.
    """
    whole = _object(data, name)
    keys = [key for key in _keys(whole, name) if key.get("kty") in _KNOWN_TYPES]
    found = (_certificate(key, name) for key in _for(keys, "x509-svid"))
    return Document(
        roots=[each for each in found if each is not None],
        jwt_keys=_by_id(_for(keys, "jwt-svid"), name),
        sequence=_number(whole, "spiffe_sequence", name),
        refresh_hint=_number(whole, "spiffe_refresh_hint", name) or _DEFAULT_HINT,
    )


def parse_jwks(data: bytes, name: str) -> Mapping[str, Jwk]:
    """Return the keys of a JWK Set for JWT-SVIDs alone, by their ID.

    The Workload API gives such: all its keys have one use, and need not tell it.

    Raises:
        MaterialError: as `parse_document`.

    Source: SPIFFE Workload API, section 6.2.2.
    """
    keys = [key for key in _keys(_object(data, name), name) if _is_for_tokens(key)]
    return _by_id(keys, name)


def _is_for_tokens(key: Jwk) -> bool:
    use = key.get("use", "sig")
    return key.get("kty") in _KNOWN_TYPES and use in _TOKEN_USES


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        return parse_object(data, _MAX_BYTES)
    except ValueError as error:
        raise _fault(name, str(error)) from error


def _keys(whole: Mapping[str, Any], name: str) -> list[Jwk]:
    keys = whole.get("keys")
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise _fault(name, "it has no list of keys")
    if len(keys) > _MAX_KEYS:
        raise _fault(name, f"it has more than {_MAX_KEYS} keys")
    return keys


def _for(keys: Sequence[Jwk], use: str) -> Iterator[Jwk]:
    return (key for key in keys if key.get("use") == use)


def _certificate(key: Jwk, name: str) -> x509.Certificate | None:
    """Return the certificate of *key*: the first one; those behind it do not count."""
    chain = key.get("x5c")
    if not isinstance(chain, list) or not chain:
        return None
    try:
        if not isinstance(chain[0], str):
            raise ValueError("x5c holds no text")  # noqa: TRY004, TRY301
        der = base64.b64decode(chain[0], validate=True)
        return x509.load_der_x509_certificate(der)
    except (ValueError, binascii.Error, x509.InvalidVersion) as error:
        text = f"{name} holds a broken certificate ({error}); get it anew"
        raise MaterialError("bad_certificate", text) from error


def _by_id(keys: Iterator[Jwk] | Sequence[Jwk], name: str) -> Mapping[str, Jwk]:
    found: dict[str, Jwk] = {}
    for key in keys:
        kid = key.get("kid")
        if not isinstance(kid, str) or not kid:
            raise _fault(name, "a key for JWT-SVIDs has no ID")
        if kid in found:
            raise _fault(name, "two keys for JWT-SVIDs have one ID")
        found[kid] = key
    return found


def _number(whole: Mapping[str, Any], member: str, name: str) -> int | None:
    value = whole.get(member)
    if value is not None and (type(value) is not int or value < 0):
        raise _fault(name, f"{member} is no number")
    return value


def _fault(name: str, fault: str) -> MaterialError:
    text = f"{name} is no SPIFFE bundle document: {fault}; get it anew"
    return MaterialError("bad_document", text)
