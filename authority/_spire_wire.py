"""From our values to SPIRE's messages and back."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final

from cryptography import x509

from authority import _spire_pb2 as pb
from authority._authority import Issued
from authority._errors import AuthorityError
from tlsloader import (
    InvalidSpiffeIDError,
    MaterialError,
    SpiffeID,
    certificates_to_pem,
    key_to_pem,
)

if TYPE_CHECKING:
    from datetime import datetime, timedelta

__all__ = [
    "bundle_from_wire",
    "entry_to_wire",
    "id_from_wire",
    "id_to_wire",
    "is_ours",
    "selector_of",
    "svid_from_wire",
]

_HINT: Final = "is it a SPIRE agent?"
_SELECTOR: Final = "cubemesh"  # no attestor makes such: only a delegate can ask for it


def selector_of(identity: SpiffeID) -> pb.Selector:
    """Return the one selector by which *identity* is asked for."""
    return pb.Selector(type=_SELECTOR, value=identity.path.rpartition("/")[2])


def is_ours(entry: pb.Entry) -> bool:
    """Say whether *entry* was made by us, or a process before us."""
    return any(each.type == _SELECTOR for each in entry.selectors)


def entry_to_wire(identity: SpiffeID, parent: SpiffeID, life: timedelta) -> pb.Entry:
    """Return the entry that gives *identity* to whoever has its selector."""
    return pb.Entry(
        spiffe_id=id_to_wire(identity),
        parent_id=id_to_wire(parent),
        selectors=[selector_of(identity)],
        x509_svid_ttl=math.ceil(life.total_seconds()),
    )


def id_to_wire(identity: SpiffeID) -> pb.SpiffeID:
    """Return the message that names *identity*."""
    return pb.SpiffeID(trust_domain=identity.trust_domain, path=identity.path)


def id_from_wire(message: pb.SpiffeID) -> SpiffeID | None:
    """Return what *message* names; ``None``: no SPIFFE ID."""
    try:
        return SpiffeID.parse(f"spiffe://{message.trust_domain}{message.path}")
    except InvalidSpiffeIDError:
        return None


def svid_from_wire(
    said: pb.SubscribeToX509SVIDsResponse, identity: SpiffeID
) -> Issued | None:
    """Return the SVID of *identity* in *said*; ``None``: there is none.

    Raises:
        AuthorityError: it is none at all.
    """
    for each in said.x509_svids:
        chain = each.x509_svid.cert_chain
        if chain and id_from_wire(each.x509_svid.id) == identity:
            return Issued(
                identity=identity,
                key=key_to_pem(each.x509_svid_key),
                chain=_pem(b"".join(chain), f"the agent's SVID of {identity}"),
                not_after=_end_of(chain[0]),
                leaf_sha256=hashlib.sha256(chain[0]).hexdigest(),
            )
    return None


def bundle_from_wire(
    said: pb.SubscribeToX509BundlesResponse, trust_domain: str
) -> bytes:
    """Return the roots of *trust_domain* in *said*, PEM.

    Raises:
        AuthorityError: there are none.
    """
    der = said.ca_certificates.get(f"spiffe://{trust_domain}", b"")
    pem = _pem(der, f"the agent's bundle of {trust_domain}")
    if not pem:
        known = ", ".join(sorted(said.ca_certificates)) or "none"
        text = f"the agent knows no roots of {trust_domain}, but those of {known}"
        hint = "name the admin socket of the sandboxes' own agent"
        raise AuthorityError("agent_other_domain", text, hint=hint)
    return pem


def _end_of(leaf: bytes) -> datetime:
    try:
        return x509.load_der_x509_certificate(leaf).not_valid_after_utc
    except ValueError as error:
        text = f"the agent's SVID is no certificate ({error})"
        raise AuthorityError("agent_failed", text, hint=_HINT) from error


def _pem(der: bytes, name: str) -> bytes:
    try:
        return certificates_to_pem(der, name)
    except MaterialError as error:
        raise AuthorityError("agent_failed", str(error), hint=_HINT) from error
