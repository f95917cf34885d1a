from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from tests.forge import BadCase, Forge
from tlsloader import (
    Allowlist,
    Peer,
    PeerRefusedError,
    SpiffeID,
    TrustBundle,
    recheck,
    verify_peer,
)

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
# Admits whatever the bad certificates may turn out to claim: what refuses them must
# be their own fault.
WIDE = Allowlist.parse("spiffe://cluster.local/")
ONLY_ROUTER = Allowlist.parse(ROUTER)

FORGE = Forge("cluster.local")
BUNDLES = {"cluster.local": FORGE.trust}
GOOD_LEAF = FORGE.svid(ROUTER).ders[0]
BAD = list(FORGE.bad_cases(ROUTER))


def proven(
    forge: Forge = FORGE,
    *,
    allow: Allowlist = ONLY_ROUTER,
    bundles: dict[str, TrustBundle] = BUNDLES,
    **faults: Any,
) -> Peer:
    chain = forge.svid(ROUTER, **faults).ders
    return verify_peer(chain, bundles=bundles, allow=allow, now=forge.now)


def refusal(
    chain: tuple[bytes, ...],
    allow: Allowlist = WIDE,
    bundles: dict[str, TrustBundle] = BUNDLES,
) -> PeerRefusedError:
    with pytest.raises(PeerRefusedError) as caught:
        verify_peer(chain, bundles=bundles, allow=allow, now=FORGE.now)
    return caught.value


def test_proves_a_good_peer() -> None:
    """A correct SVID of an admitted identity says who the peer is, and until when."""
    svid = FORGE.svid(ROUTER, life=600)
    peer = verify_peer(svid.ders, bundles=BUNDLES, allow=ONLY_ROUTER, now=FORGE.now)
    leaf = svid.certificates[0]
    assert peer.id == SpiffeID.parse(ROUTER)
    assert peer.leaf_sha256 == svid.leaf_sha256
    assert peer.not_before == leaf.not_valid_before_utc
    assert peer.not_after == leaf.not_valid_after_utc
    assert peer.chain == svid.ders
    assert peer.bundle_fingerprint == BUNDLES["cluster.local"].fingerprint


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.title)
def test_refuses_every_bad_peer(case: BadCase) -> None:
    """Each broken rule refuses the peer, with a reason of its own."""
    assert refusal(case.chain.ders).reason == case.reason


def test_every_bad_peer_has_a_good_twin() -> None:
    """What the matrix refuses differs from an admitted peer in its fault only."""
    titles = [case.title for case in BAD]
    assert len(titles) == len(set(titles)) > 60
    assert proven(allow=WIDE).id == SpiffeID.parse(ROUTER)


@pytest.mark.parametrize(
    "good",
    [
        {"dns": ("localhost",), "ips": ("127.0.0.1",)},
        {"subject": "agentcube", "san_critical": False},
        {"purposes": None},
        {"usages": ("digital_signature", "key_encipherment")},
        {"life": 1},
        {"age": 0},
    ],
    ids=str,
)
def test_admits_what_the_standard_allows(good: dict[str, Any]) -> None:
    """Being strict does not mean refusing correct SVIDs of other makers."""
    assert proven(**good).id == SpiffeID.parse(ROUTER)


def test_admits_through_intermediates() -> None:
    """Intermediates that may sign lead to the root; their dates count too."""
    far = FORGE.signer(FORGE.root, subject="far", life=120)
    near = FORGE.signer(far, subject="near", uris=("spiffe://cluster.local",))
    peer = proven(by=[near, far])
    assert peer.not_after == far.certificate.not_valid_after_utc
    shuffled = FORGE.svid(ROUTER, by=[near, far]).ders
    leaf, first, second = shuffled
    order = (leaf, second, first)
    assert verify_peer(order, bundles=BUNDLES, allow=WIDE, now=FORGE.now).id == peer.id


def test_a_missing_intermediate_breaks_the_chain() -> None:
    """The peer has to show how its root is reached."""
    near = FORGE.signer(FORGE.root, subject="near")
    leaf = FORGE.svid(ROUTER, by=[near]).ders[:1]
    assert refusal(leaf).reason == "untrusted_chain"


def test_the_peers_own_root_counts_for_nothing() -> None:
    """A stranger cannot bring the root it wants to be judged by."""
    stranger = Forge("cluster.local", FORGE.now)
    chain = (
        *stranger.svid(ROUTER).ders,
        stranger.svid(ROUTER, by=[stranger.root]).ders[1],
    )
    assert refusal(chain).reason == "untrusted_chain"


def test_another_domains_root_cannot_vouch() -> None:
    """Bundles are never merged: a known foreign CA makes no identity of ours."""
    other = Forge("sandbox.cluster.local", FORGE.now)
    both = {**BUNDLES, other.trust_domain: other.trust}
    allow = Allowlist.parse(ROUTER, "spiffe://sandbox.cluster.local/")
    assert refusal(other.svid(ROUTER).ders, allow, both).reason == "untrusted_chain"
    own = other.svid("spiffe://sandbox.cluster.local/ns/a/sandbox/sbx-1").ders
    verify_peer(own, bundles=both, allow=allow, now=FORGE.now)


def test_a_door_judges_only_the_domains_it_admits() -> None:
    """A valid SVID of a known domain that no rule names is not even verified."""
    other = Forge("sandbox.cluster.local", FORGE.now)
    both = {**BUNDLES, other.trust_domain: other.trust}
    chain = other.svid("spiffe://sandbox.cluster.local/ns/a/sandbox/sbx-1").ders
    assert refusal(chain, WIDE, both).reason == "unknown_trust_domain"


def test_a_domain_without_a_bundle_is_unknown() -> None:
    """An admitted domain whose roots we do not have proves nothing."""
    error = refusal(FORGE.svid(ROUTER).ders, bundles={})
    assert error.reason == "no_bundle"


def test_an_empty_bundle_trusts_nobody() -> None:
    """No roots means no trust, never the system's roots."""
    empty = {"cluster.local": TrustBundle("cluster.local", ())}
    assert refusal(FORGE.svid(ROUTER).ders, bundles=empty).reason == "empty_bundle"


def test_an_expired_root_signs_no_more() -> None:
    """One expired root is passed over; another one in the bundle still counts."""
    old = Forge("cluster.local", FORGE.now)
    old.root = old.signer(life=-1)
    chain = old.svid(ROUTER).ders
    alone = {"cluster.local": old.trust}
    assert refusal(chain, bundles=alone).reason == "signer_expired"
    roots = (old.root.certificate, FORGE.root.certificate)
    mixed = {"cluster.local": TrustBundle("cluster.local", roots)}
    assert proven(bundles=mixed).id == SpiffeID.parse(ROUTER)


def test_refuses_who_is_not_on_the_list() -> None:
    """A proven identity is not enough; the log names it and the list."""
    other = "spiffe://cluster.local/ns/agentcube-system/sa/other"
    error = refusal(FORGE.svid(other).ders, ONLY_ROUTER)
    assert error.reason == "not_admitted"
    assert error.peer_id == SpiffeID.parse(other)
    assert other in str(error)
    assert ROUTER in str(error)


def test_the_list_is_asked_last() -> None:
    """Who proves nothing does not learn, even from our log, who would be let in."""
    other = "spiffe://cluster.local/ns/agentcube-system/sa/other"
    stranger = Forge("cluster.local", FORGE.now)
    assert refusal(stranger.svid(other).ders, ONLY_ROUTER).reason == "untrusted_chain"


def test_an_empty_list_admits_no_peer() -> None:
    """A door without rules stays shut."""
    assert refusal(FORGE.svid(ROUTER).ders, Allowlist()).peer_id is not None


def test_refuses_who_shows_nothing() -> None:
    """No certificate has its own reason."""
    error = refusal(())
    assert (error.reason, error.peer_id) == ("no_certificate", None)


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x30\x03\x02\x01\x00"])
def test_refuses_what_is_no_certificate(junk: bytes) -> None:
    """Bytes that are no certificate are refused wherever they stand."""
    leaf = FORGE.svid(ROUTER).ders[0]
    assert refusal((junk,)).reason == "malformed_certificate"
    assert refusal((leaf, junk)).reason == "malformed_certificate"


@given(st.data())
def test_a_spoiled_certificate_is_refused(data: st.DataObject) -> None:
    """Whatever byte of a leaf is changed, nobody is admitted and nothing crashes."""
    der = bytearray(GOOD_LEAF)
    position = data.draw(st.integers(0, len(der) - 1))
    der[position] ^= data.draw(st.integers(1, 255))
    refusal((bytes(der),))


def test_the_form_of_the_signature_is_judged() -> None:
    """What no signature covers cannot be changed unnoticed either."""
    leaves = (FORGE.svid(ROUTER).ders[0] for _ in range(1000))
    whole = next(leaf for leaf in leaves if not leaf[-1] & 1)
    signature = x509.load_der_x509_certificate(whole).signature
    changed = whole[: -len(signature) - 1] + b"\x01" + signature
    assert refusal((changed,)).reason == "malformed_certificate"


def test_tells_the_claim_of_a_refused_peer() -> None:
    """The log can say who a refused peer claimed to be."""
    assert refusal(FORGE.svid(ROUTER, life=-1).ders).peer_id == SpiffeID.parse(ROUTER)
    assert refusal(FORGE.svid(ROUTER, ca=True).ders).peer_id == SpiffeID.parse(ROUTER)


def test_recheck_returns_the_same_peer_while_nothing_changed() -> None:
    """On the hot path nothing is made anew."""
    peer = proven()
    later = FORGE.now + timedelta(seconds=5)
    assert recheck(peer, bundles=BUNDLES, allow=ONLY_ROUTER, now=later) is peer


@pytest.mark.parametrize(
    ("seconds", "reason"), [(-61, "not_yet_valid"), (3601, "expired")]
)
def test_recheck_sees_the_dates(seconds: float, reason: str) -> None:
    """A live connection does not outlive the certificate it was opened with."""
    peer = proven()
    now = FORGE.now + timedelta(seconds=seconds)
    with pytest.raises(PeerRefusedError) as caught:
        recheck(peer, bundles=BUNDLES, allow=ONLY_ROUTER, now=now)
    assert caught.value.reason == reason


def test_recheck_sees_an_intermediates_end() -> None:
    """The weakest date of the chain ends the proof."""
    near = FORGE.signer(FORGE.root, subject="near", life=60)
    peer = proven(by=[near])
    now = FORGE.now + timedelta(seconds=61)
    with pytest.raises(PeerRefusedError) as caught:
        recheck(peer, bundles=BUNDLES, allow=ONLY_ROUTER, now=now)
    assert caught.value.reason == "signer_expired"


def test_recheck_sees_the_list() -> None:
    """Whom the list no longer names is refused on his next call."""
    allow = Allowlist.parse("spiffe://cluster.local/ns/other/")
    with pytest.raises(PeerRefusedError) as caught:
        recheck(proven(), bundles=BUNDLES, allow=allow, now=FORGE.now)
    assert caught.value.reason == "not_admitted"


def test_recheck_sees_a_withdrawn_root() -> None:
    """Once its root has left the bundle, an old proof is worth nothing."""
    fresh = {"cluster.local": Forge("cluster.local", FORGE.now).trust}
    with pytest.raises(PeerRefusedError) as caught:
        recheck(proven(), bundles=fresh, allow=ONLY_ROUTER, now=FORGE.now)
    assert caught.value.reason == "untrusted_chain"


def test_recheck_sees_a_withdrawn_domain() -> None:
    """Without its domain's bundle a peer is unknown again."""
    with pytest.raises(PeerRefusedError) as caught:
        recheck(proven(), bundles={}, allow=ONLY_ROUTER, now=FORGE.now)
    assert caught.value.reason == "no_bundle"


def test_recheck_follows_a_bundle_that_still_vouches() -> None:
    """A bundle that grew proves the peer anew, once; the result is kept."""
    grown = TrustBundle(
        "cluster.local",
        (FORGE.root.certificate, Forge("cluster.local").root.certificate),
    )
    peer = proven()
    bundles = {"cluster.local": grown}
    again = recheck(peer, bundles=bundles, allow=ONLY_ROUTER, now=FORGE.now)
    assert again.bundle_fingerprint == grown.fingerprint != peer.bundle_fingerprint
    assert recheck(again, bundles=bundles, allow=ONLY_ROUTER, now=FORGE.now) is again
