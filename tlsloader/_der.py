"""What agents say in DER, put into PEM: a row of certificates, or a key.

Source: SPIFFE Workload API, section 5; RFC 7468.
"""

from __future__ import annotations

import base64
import textwrap
from typing import TYPE_CHECKING, Final

from tlsloader._errors import MaterialError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["certificates_to_pem", "key_to_pem"]

_SEQUENCE: Final = 0x30
_LONG_FORM: Final = 0x80
_MAX_LENGTH_BYTES: Final = 4


def certificates_to_pem(der: bytes, name: str) -> bytes:
    """Return the certificates that *der* joins as PEM text; *name* is what to call it.

    Raises:
        MaterialError: it is no row of DER elements.
    """
    return b"".join(_armoured("CERTIFICATE", each) for each in _split(der, name))


def key_to_pem(der: bytes) -> bytes:
    """Return the private key *der* (PKCS#8) as PEM text."""
    return _armoured("PRIVATE KEY", der)


def _split(der: bytes, name: str) -> Iterable[bytes]:
    """Yield each of the SEQUENCEs that *der* joins. Source: X.690, section 8.1.3."""
    start = 0
    while start < len(der):
        end = _end(der, start)
        if der[start] != _SEQUENCE or end is None or end > len(der):
            text = f"{name} holds something that is no row of DER certificates"
            raise MaterialError("bad_certificate", text)
        yield der[start:end]
        start = end


def _end(der: bytes, start: int) -> int | None:
    """Return where the element at *start* ends, if that can be said."""
    head = der[start + 1 : start + 2]
    if not head:
        return None
    count = head[0] & ~_LONG_FORM
    if head[0] == count:
        return start + 2 + count
    digits = der[start + 2 : start + 2 + count]
    if not 0 < count <= _MAX_LENGTH_BYTES or len(digits) < count:
        return None
    return start + 2 + count + int.from_bytes(digits)


def _armoured(label: str, der: bytes) -> bytes:
    """Return *der* as one PEM block; nothing, if it is nothing."""
    if not der:
        return b""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    block = [f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]
    return "\n".join(block).encode()
