"""Spoiled input of every kind: our own error with a reason, or what was meant."""

from __future__ import annotations

import re
import ssl
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import event, given
from hypothesis import strategies as st

from tests.forge import Forge, Svid
from tests.tlsloader.der import Reading, mangled, meaning, resigned
from tlsloader import (
    Allowlist,
    InvalidMatcherError,
    InvalidSpiffeIDError,
    Material,
    MaterialError,
    PeerRefusedError,
    SpiffeID,
    TrustBundle,
    parse_matcher,
    parse_trust_domain,
    verify_peer,
)
from tlsloader._pem import read_key, write_certificates

# What a library says about odd input beside refusing it
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive"),
    pytest.mark.filterwarnings("ignore:Attribute's length must be"),
]

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
WIDE = Allowlist.parse("spiffe://cluster.local/")
FORGE = Forge("cluster.local")
NEAR = FORGE.signer(FORGE.root, subject="near", uris=("spiffe://cluster.local",))
SVID = FORGE.svid(ROUTER, by=[NEAR], dns=("router.test",), subject="router")
OTHER = FORGE.svid(ROUTER + "-2", by=[NEAR])
SECOND = FORGE.signer(subject="second")
NOTE = b"# roots of cluster.local\n"
BUNDLE = NOTE + FORGE.bundle + SECOND.pem

# The grammar of the standard once more, as one expression
ID = re.compile(
    r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)*", re.ASCII
)
PIECES = (
    *("spiffe:", "SPIFFE:", "//", "/", ".", "..", "td", "TD", "a" * 254, ":", "@", "-"),
    *(
        "%2e",
        "?",
        "#",
        "\n",
        "\0",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
        "a",
        "_",
        " ",
    ),
    "\N{ARABIC-INDIC DIGIT THREE}",
)
NEARLY_IDS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
DOMAINS = st.sampled_from(["td", "td.evil", "xtd"])
PATHS = st.lists(st.sampled_from(["a", "ab", "user"]), max_size=3)
IDS = st.builds(
    lambda domain, path: "/".join((f"spiffe://{domain}", *path)), DOMAINS, PATHS
)


@given(st.one_of(NEARLY_IDS, NEARLY_IDS.map("spiffe://td/".__add__), st.text()))
def test_ids_are_what_the_grammar_says(text: str) -> None:
    """Two readers of the same grammar take the same texts, and nothing is changed."""
    try:
        identity = SpiffeID.parse(text)
    except InvalidSpiffeIDError as error:
        assert error.reason  # noqa: PT017
        assert not ID.fullmatch(text) or len(text) > 2048
    else:
        event("read")
        assert ID.fullmatch(text)
        assert str(identity) == text
        assert parse_trust_domain(text) == identity.trust_domain


@given(IDS, st.sampled_from(["", "/"]), IDS)
def test_rules_admit_what_they_say(rule: str, end: str, text: str) -> None:
    """A rule admits its own text, or what goes on behind its last slash."""
    try:
        matcher = parse_matcher(rule + end)
    except InvalidMatcherError as error:
        assert error.reason == "no_path"  # noqa: PT017 -- a domain without a slash
        return
    expected = text.startswith(rule + end) if end else text == rule
    if end and rule.count("/") == 2:  # the whole trust domain, itself too
        expected = (text + "/").startswith(rule + end)
    event(f"{expected=}")
    assert matcher.admits(SpiffeID.parse(text)) == expected


def material(svid: Svid, **parts: bytes) -> Material:
    good = {"key": svid.key, "chain": svid.chain, "bundle": BUNDLE}
    return Material.parse(**{**good, **parts}, now=FORGE.now)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["key", "chain"])
@given(data=st.data())
def test_a_mangled_file_is_refused_or_the_same(part: str, data: st.DataObject) -> None:
    """No accident to our key or chain makes us another, or somebody's else."""
    whole = {"key": SVID.key, "chain": SVID.chain}[part]
    spoiled = data.draw(mangled(whole))
    try:
        found = material(SVID, **{part: spoiled})
    except MaterialError as error:
        event(error.reason)
    else:
        event("taken")
        assert (found.key, found.chain) == (SVID.key, SVID.chain)


@given(mangled(BUNDLE, accidents=1))
def test_a_mangled_bundle_is_refused_or_means_the_same(pem: bytes) -> None:
    """No accident adds or changes a root, and none that can be seen gets lost."""
    try:
        bundle = TrustBundle.parse("cluster.local", pem)
    except MaterialError as error:
        event(error.reason)
    else:
        event("taken")
        roots = FORGE.root.certificate, SECOND.certificate
        found = [meaning(each) for each in bundle.certificates]
        assert all(each in map(meaning, roots) for each in found)
        assert len(found) <= pem.count(b"CERTIFICATE") // 2


@given(
    st.lists(
        st.sampled_from(
            (
                *(SVID.key, OTHER.key, FORGE.bundle, NOTE, NEAR.pem),
                *(write_certificates(each.certificates[:1]) for each in (SVID, OTHER)),
            )
        ),
        max_size=5,
    ).map(b"".join)
)
def test_spliced_files_make_the_identity_that_comes_first(both: bytes) -> None:
    """Whole blocks in any order: the first leaf with its own key, or an error."""
    try:
        found = Material.parse(key=both, chain=both, bundle=BUNDLE, now=FORGE.now)
    except MaterialError as error:
        event(error.reason)
    else:
        event("taken")
        who = {SVID.leaf_sha256: SVID, OTHER.leaf_sha256: OTHER}[found.leaf_sha256]
        assert found.key == who.key
        assert both.count(b"PRIVATE KEY") == 2
        first = both[both.index(b"-----BEGIN CERTIFICATE") :]
        assert first.startswith(write_certificates(who.certificates[:1]))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_bytes_around_a_key_change_nothing(before: bytes, behind: bytes) -> None:
    """What is not in the block is not in the key."""
    with suppress(MaterialError):
        key = read_key(before + SVID.key + behind, "x")
        assert key.public_key() == SVID.certificates[0].public_key()


def proven(chain: list[bytes], bundle: TrustBundle = FORGE.trust) -> str:
    """Return the reason why *chain* is refused; nothing if it is not."""
    bundles = {"cluster.local": bundle}
    try:
        verify_peer(chain, bundles=bundles, allow=WIDE, now=FORGE.now)
    except PeerRefusedError as error:
        return error.reason
    return ""


@pytest.mark.parametrize("which", [0, 1], ids=["leaf", "intermediate"])
@given(data=st.data())
def test_a_mangled_certificate_is_refused_or_the_same(
    which: int, data: st.DataObject
) -> None:
    """What was signed cannot be changed by a byte, nor what stands around it."""
    chain = list(SVID.ders)
    chain[which] = data.draw(mangled(chain[which]))
    refused = proven(chain)
    event(refused)
    assert refused or chain == list(SVID.ders)


@given(st.permutations([*SVID.ders, *OTHER.ders[:1]]), st.integers(0, 3))
def test_shuffled_chains_prove_the_leaf_that_comes_first(
    chain: list[bytes], shown: int
) -> None:
    """The first certificate is who the peer says it is; order decides nothing else."""
    leaves = {SVID.ders[0], OTHER.ders[0]}
    good = shown > 1 and chain[0] in leaves and SVID.ders[1] in chain[:shown]
    good = good and not leaves.intersection(chain[1:shown])
    assert (proven(chain[:shown]) == "") == good


@given(resigned(SVID.ders[0], NEAR))
def test_a_strange_leaf_of_a_true_authority_is_read_by_all_alike(leaf: bytes) -> None:
    """Whatever an authority signs: our error, or an identity that all would read."""
    bundles = {"cluster.local": FORGE.trust}
    try:
        chain = [leaf, SVID.ders[1]]
        peer = verify_peer(chain, bundles=bundles, allow=WIDE, now=FORGE.now)
    except PeerRefusedError as error:
        event(error.reason)
        return
    event("admitted")
    said = Reading.of(leaf)
    assert said.uris == [str(peer.id).encode()]
    assert not said.ca
    # digitalSignature, and neither keyCertSign nor cRLSign
    assert said.usage & 0b1000_0110 == 0b1000_0000


@given(resigned(SVID.ders[1], FORGE.root))
def test_a_strange_authority_is_refused_or_harmless(near: bytes) -> None:
    """Whatever a root signs as its intermediate: our error, or a proven peer."""
    event(proven([SVID.ders[0], near]))


@given(resigned(FORGE.root.certificate.public_bytes(Encoding.DER), FORGE.root))
def test_a_strange_root_is_refused_or_harmless(der: bytes) -> None:
    """Whatever stands in a bundle: our error, or a bundle that proves or does not."""
    pem = ssl.DER_cert_to_PEM_cert(der).encode()
    try:
        bundle = TrustBundle.parse("cluster.local", pem)
    except MaterialError as error:
        event(error.reason)
    else:
        event(f"taken: {proven(list(SVID.ders), bundle)}")
