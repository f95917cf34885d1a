"""PEM text into certificates and keys, strictly: all of it or an error.

Source: RFC 7468.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tlsloader._errors import MaterialError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["read_certificates", "read_key", "write_certificates", "write_key"]

_BLOCK = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]+)-----"
    rb"[^-]*(?:-(?!----)[^-]*)*"  # old encrypted keys have headers with dashes
    rb"-----END (?P=label)-----"
)
_MARKS = (b"-----BEGIN ", b"-----END ")
_KEYS = frozenset({b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY"})
_KEY_PARAMETERS = b"EC PARAMETERS"  # openssl writes these before an EC key
_CERTIFICATE = b"CERTIFICATE"


def read_certificates(
    data: bytes, name: str, *, beside_key: bool = False
) -> list[x509.Certificate]:
    """Return the certificates of the PEM text *data*, in their order.

    Args:
        data: PEM text; what stands between the blocks is ignored.
        name: what to call the text in an error: its file.
        beside_key: whether a private key may share the text.

    Raises:
        MaterialError: a block is broken or of another kind, or there is none.
    """
    allowed = {_CERTIFICATE} | (_KEYS | {_KEY_PARAMETERS} if beside_key else set())
    blocks = _blocks(data, name, allowed)
    found = [block for label, block in blocks if label == _CERTIFICATE]
    if not found:
        text = f"{name} holds no certificate; put PEM certificates there"
        raise MaterialError("no_certificates", text)
    try:
        return [x509.load_pem_x509_certificate(block) for block in found]
    except (ValueError, x509.InvalidVersion) as error:
        text = f"{name} holds a broken certificate ({error}); write it anew"
        raise MaterialError("bad_certificate", text) from error


def read_key(data: bytes, name: str) -> PrivateKeyTypes:
    """Return the one private key of the PEM text *data*; certificates may share it.

    Raises:
        MaterialError: there is none, several, or an encrypted or broken one.
    """
    allowed = _KEYS | {_CERTIFICATE, _KEY_PARAMETERS, b"ENCRYPTED PRIVATE KEY"}
    blocks = _blocks(data, name, allowed)
    if any(label == b"ENCRYPTED PRIVATE KEY" for label, _ in blocks):
        raise MaterialError("key_encrypted", _encrypted(name))
    keys = [block for label, block in blocks if label in _KEYS]
    if len(keys) != 1:
        text = f"{name} holds {len(keys)} private keys; put exactly one PEM key there"
        raise MaterialError("no_key" if not keys else "several_keys", text)
    try:
        # whether an RSA key's numbers are primes takes it a tenth of a second or more
        return load_pem_private_key(
            keys[0], password=None, unsafe_skip_rsa_key_validation=True
        )
    except TypeError as error:  # the older way of encrypting, inside the block
        raise MaterialError("key_encrypted", _encrypted(name)) from error
    except (ValueError, UnsupportedAlgorithm):
        # the cause stays out: it may quote the key
        text = f"{name} holds a broken private key; write it anew as PKCS#8 PEM"
        raise MaterialError("bad_key", text) from None


def write_certificates(certificates: Iterable[x509.Certificate]) -> bytes:
    """Return *certificates* as PEM text, in one canonical form."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def write_key(key: PrivateKeyTypes) -> bytes:
    """Return *key* as unencrypted PKCS#8 PEM, in one canonical form."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _encrypted(name: str) -> str:
    return f"{name} holds an encrypted key; write it without a pass phrase, mode 0600"


def _blocks(
    data: bytes, name: str, allowed: frozenset[bytes] | set[bytes]
) -> list[tuple[bytes, bytes]]:
    """Return (label, text) of each PEM block; a torn or foreign one is an error."""
    if not data.strip():
        text = f"{name} is empty; it may be half written: write it anew"
        raise MaterialError("empty_file", text)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        text = f"{name} is no text; convert it with `openssl x509` or `pkey`"
        raise MaterialError("not_pem", text) from error
    blocks = [(match["label"], match[0]) for match in _BLOCK.finditer(data)]
    if any(data.count(mark) != len(blocks) for mark in _MARKS):
        text = f"{name} has a torn PEM block; it may be half written: write it anew"
        raise MaterialError("half_written", text)
    if not blocks:
        text = f"{name} is not PEM text; convert it with `openssl x509` or `pkey`"
        raise MaterialError("not_pem", text)
    for label, _ in blocks:
        if label not in allowed:
            text = f"{name} holds a {label.decode()}, which does not belong there"
            raise MaterialError("foreign_block", text)
    return blocks
