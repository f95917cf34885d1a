"""Judge a peer by the certificates it presented; pure, no TLS, no I/O.

Source: X509-SVID standard, section 5; SPIFFE Trust Domain and Bundle, section 5.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509

from tlsloader._chain import MAX_CHAIN
from tlsloader._errors import PeerRefusedError, RuleBrokenError
from tlsloader._rules import (
    Extensions,
    check_dates,
    check_form,
    check_leaf,
    check_signer,
    leaf_identity,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from tlsloader._bundle import TrustBundle
    from tlsloader._matchers import Allowlist
    from tlsloader._spiffe import SpiffeID

__all__ = ["Peer", "recheck", "verify_peer"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that has proven who it is, and by what.

    ``not_before`` and ``not_after`` (UTC) bound the whole verified chain, root
    included; ``chain`` is what was presented, DER, leaf first; ``leaf_sha256`` is
    the hex digest of the leaf's DER.
    """

    id: SpiffeID
    leaf_sha256: str
    not_before: datetime
    not_after: datetime
    chain: tuple[bytes, ...] = field(repr=False)
    bundle_fingerprint: str


def verify_peer(
    chain: Sequence[bytes],
    *,
    bundles: Mapping[str, TrustBundle],
    allow: Allowlist,
    now: datetime,
) -> Peer:
    """Return the peer that *chain* proves; takes about 0.3 ms.

    Args:
        chain: the presented certificates, DER, leaf first.
        bundles: the roots by trust domain; only those of the leaf's own domain
            count.
        allow: whom this door admits.
        now: the instant, in UTC, at which the chain must be valid.

    Raises:
        PeerRefusedError: the chain proves nothing, or somebody not admitted.
    """
    if not chain:
        raise PeerRefusedError("no_certificate", "the peer showed no certificate")
    certificates = _parsed(chain)
    leaf, *signers = certificates
    claimed: SpiffeID | None = None
    try:
        extensions = Extensions(leaf)
        claimed = leaf_identity(extensions)
        for certificate, der in zip(certificates, chain, strict=True):
            check_form(certificate, der)
        check_leaf(leaf, extensions)
        bundle = _bundle_for(claimed, bundles, allow)
        check_dates(leaf, now)
        for signer in signers:
            if signer not in bundle.certificates:  # those were judged when they came
                check_signer(signer, claimed.trust_domain)
        verified = bundle.anchors.path(certificates, now)
    except RuleBrokenError as error:
        whom = f"the peer that claims to be {claimed}" if claimed else "the peer"
        text = f"{whom} is refused: {error}"
        raise PeerRefusedError(error.reason, text, peer_id=claimed) from error
    if not allow.admits(claimed):
        text = f"{claimed} is refused: this door admits {allow}"
        raise PeerRefusedError("not_admitted", text, peer_id=claimed)
    return Peer(
        id=claimed,
        leaf_sha256=hashlib.sha256(chain[0]).hexdigest(),
        not_before=max(each.not_valid_before_utc for each in verified),
        not_after=min(each.not_valid_after_utc for each in verified),
        chain=tuple(chain),
        bundle_fingerprint=bundle.fingerprint,
    )


def recheck(
    peer: Peer,
    *,
    bundles: Mapping[str, TrustBundle],
    allow: Allowlist,
    now: datetime,
) -> Peer:
    """Return *peer* if its proof still holds; about 1 µs, for use on every call.

    Once its bundle has changed or a date of its chain has passed, the whole chain
    is verified anew: keep the peer that comes back, lest each call pays for that.

    Raises:
        PeerRefusedError: the proof no longer holds.
    """
    bundle = bundles.get(peer.id.trust_domain)
    if (
        bundle is not None
        and bundle.fingerprint == peer.bundle_fingerprint
        and peer.not_before <= now <= peer.not_after
        and allow.admits(peer.id)
    ):
        return peer
    return verify_peer(peer.chain, bundles=bundles, allow=allow, now=now)


def _parsed(chain: Sequence[bytes]) -> list[x509.Certificate]:
    if len(chain) > MAX_CHAIN + 1:
        text = f"the peer showed {len(chain)} certificates, more than {MAX_CHAIN + 1}"
        raise PeerRefusedError("chain_too_long", text)
    try:
        return [x509.load_der_x509_certificate(der) for der in chain]
    except (ValueError, x509.InvalidVersion) as error:
        text = f"the peer showed a certificate that cannot be read ({error})"
        raise PeerRefusedError("malformed_certificate", text) from error


def _bundle_for(
    claimed: SpiffeID, bundles: Mapping[str, TrustBundle], allow: Allowlist
) -> TrustBundle:
    """Return the bundle of the leaf's own domain; no other may vouch for it."""
    domain = claimed.trust_domain
    if domain not in allow.trust_domains:
        text = f"this door admits nobody of the trust domain {domain}"
        raise RuleBrokenError("unknown_trust_domain", text)
    if domain not in bundles:
        text = f"there is no bundle of the trust domain {domain}"
        raise RuleBrokenError("no_bundle", text)
    return bundles[domain]
