"""The rules about our own credential: who, by which key, and until when.

Source: X509-SVID standard, sections 4 and 5.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from tlsloader._chain import MAX_CHAIN
from tlsloader._errors import MaterialError, RuleBrokenError
from tlsloader._pem import read_key
from tlsloader._rules import (
    Extensions,
    check_dates,
    check_form,
    check_leaf,
    check_signer,
    leaf_identity,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from tlsloader._bundle import TrustBundle
    from tlsloader._snapshot import Snapshot
    from tlsloader._spiffe import SpiffeID

__all__ = ["check_same", "end_of_proof", "own_identity", "own_key"]

_TICK: Final = timedelta(seconds=1)


def own_identity(
    certificates: list[x509.Certificate], name: str, now: datetime
) -> SpiffeID:
    """Return whom *certificates*, leaf first, make; *name* is what to call them.

    Raises:
        MaterialError: they break a rule of X509-SVID.
    """
    leaf, *signers = certificates
    if len(signers) > MAX_CHAIN:
        text = f"{name} holds more than {MAX_CHAIN} intermediates; drop the needless"
        raise MaterialError("chain_too_long", text)
    try:
        for each in certificates:
            check_form(each, each.public_bytes(Encoding.DER))
        extensions = Extensions(leaf)
        identity = leaf_identity(extensions)
        check_leaf(leaf, extensions)
        check_dates(leaf, now)
        for signer in signers:
            check_signer(signer, identity.trust_domain)
    except RuleBrokenError as error:
        text = f"{name} is no usable X509-SVID: {error}; have it issued anew"
        raise MaterialError(error.reason, text) from error
    return identity


def check_same(identity: SpiffeID, files: Snapshot, held: SpiffeID) -> None:
    """Refuse to become other than whom we *held*, or whom the source tells of.

    Raises:
        MaterialError: *identity* is somebody else.
    """
    name = files.chain.name
    if identity != held:
        text = (
            f"{name} is of {identity}, and we are {held}; "
            "start the service anew if it is to be somebody else"
        )
        raise MaterialError("identity_changed", text)
    if files.identity is not None and files.identity != str(identity):
        text = f"{name} is of {identity}; mend the agent, which calls it something else"
        raise MaterialError("other_identity", text)


def own_key(leaf: x509.Certificate, files: Snapshot) -> PrivateKeyTypes:
    """Return the private key of *leaf*.

    Raises:
        MaterialError: *files* do not hold it, or it is broken.
    """
    key = read_key(files.key.data, files.key.name)
    if key.public_key() != leaf.public_key():
        text = (
            f"{files.key.name} is not the key of {files.chain.name}; if they are "
            "being renewed, one is still to come: write both from the same issue"
        )
        raise MaterialError("key_mismatch", text)
    if isinstance(key, rsa.RSAPrivateKey) and not _signs(key):
        text = f"{files.key.name} holds an RSA key that does not sign; write it anew"
        raise MaterialError("bad_key", text)
    return key


def _signs(key: rsa.RSAPrivateKey) -> bool:
    """Say whether *key* is whole; of its numbers only the public ones were compared."""
    how = PSS(MGF1(SHA256()), PSS.DIGEST_LENGTH), SHA256()
    try:
        key.public_key().verify(key.sign(b"", *how), b"", *how)
    except InvalidSignature:
        return False
    return True


def end_of_proof(
    certificates: list[x509.Certificate],
    bundle: TrustBundle,
    names: tuple[str, str],
    now: datetime,
) -> datetime:
    """Return until when, without a gap from *now* on, our leaf leads to a root.

    Raises:
        MaterialError: it does not do so now.
    """
    leaf = certificates[0]
    try:
        path = bundle.anchors.path(certificates, now)
    except RuleBrokenError as error:
        text = (
            f"{names[0]} was not signed by a root in {names[1]}: "
            f"{error}; put the bundle of {bundle.trust_domain} there"
        )
        raise MaterialError(error.reason, text) from error
    while (end := _end(path)) < leaf.not_valid_after_utc:
        try:  # another root may go on where this path ends
            path = bundle.anchors.path(certificates, end + _TICK)
        except RuleBrokenError:
            break
    return end


def _end(path: Sequence[x509.Certificate]) -> datetime:
    return min(each.not_valid_after_utc for each in path)
