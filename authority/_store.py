"""Keep an authority's key and root in a folder that only our user can enter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from authority._errors import AuthorityError
from authority._files import private_folder, replace

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from authority._x509 import SigningKey

__all__ = ["load", "save"]

_KEY = "ca.key"
_ROOT = "ca.pem"


def load(
    folder: Path, trust_domain: str, *, now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
    """Return the key and the root kept in *folder*, or ``None`` if there are none.

    The root is written last: a key without one has signed nothing yet.

    Raises:
        AuthorityError: they are broken, expired, another domain's or not private.
    """
    private_folder(folder)
    _check_private(folder)
    if not (folder / _ROOT).exists():
        return None
    try:
        _check_private(folder / _KEY)
        key = load_pem_private_key((folder / _KEY).read_bytes(), password=None)
        root = x509.load_pem_x509_certificate((folder / _ROOT).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(folder, "broken", f"cannot be read ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(folder, "broken", "has a key that is not ECDSA")
    if key.public_key() != root.public_key():
        raise _unusable(folder, "broken", "has a key that is not its certificate's")
    if _domain(root) != trust_domain:
        fault = f"belongs to {_domain(root)!r}, not to {trust_domain!r}"
        raise _unusable(folder, "other_trust_domain", fault)
    if now >= root.not_valid_after_utc:
        fault = f"expired at {root.not_valid_after_utc:%FT%TZ}"
        raise _unusable(folder, "authority_expired", fault)
    return key, root


def save(folder: Path, key: SigningKey, root: x509.Certificate) -> None:
    """Keep *key* and *root* in *folder*."""
    private_folder(folder)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    replace(folder / _KEY, pem)
    replace(folder / _ROOT, root.public_bytes(Encoding.PEM), mode=0o644)


def _check_private(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        fault = "can be read or written by others"
        hint = f"chown it to uid {os.geteuid()} and `chmod go= {path}`"
        raise AuthorityError("not_private", f"{path} {fault}", hint=hint)


def _domain(root: x509.Certificate) -> str | None:
    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return None
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0].removeprefix("spiffe://") if len(uris) == 1 else None


def _unusable(folder: Path, reason: str, fault: str) -> AuthorityError:
    hint = "move the folder away; the next start makes a new authority"
    return AuthorityError(reason, f"the authority in {folder} {fault}", hint=hint)
