from __future__ import annotations

import dataclasses
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tlsloader import InvalidSpiffeIDError, SpiffeID, parse_trust_domain

IN_DOMAINS = string.ascii_lowercase + string.digits + ".-_"
IN_PATHS = string.ascii_letters + string.digits + ".-_"
TD = "spiffe://trustdomain"

VALID = [
    TD,
    f"{TD}/path",
    f"{TD}/path/element",
    f"{TD}/.path",
    f"{TD}/..path",
    f"{TD}/...",
    "spiffe://192.0.2.1/path",
    f"spiffe://{'a' * 255}/path",
    f"{TD}/{'a' * (2048 - len(TD) - 1)}",
    *(TD + c for c in IN_DOMAINS),
    *(f"{TD}/path{c}" for c in IN_PATHS),
]

EMPTY = "empty_id"
SCHEME = "not_spiffe_scheme"
NO_DOMAIN = "no_trust_domain"
DOMAIN = "bad_trust_domain"
PATH = "bad_path"
SEGMENT = "empty_segment"
DOT = "dot_segment"
SLASH = "trailing_slash"

INVALID = [
    ("", EMPTY),
    ("s", SCHEME),
    ("spiffe:/", SCHEME),
    ("Spiffe://", SCHEME),
    ("SPIFFE://trustdomain", SCHEME),
    ("spiffe:/trustdomain/path", SCHEME),
    (f" {TD}", SCHEME),
    ("https://trustdomain/path", SCHEME),
    ("spiffe://", NO_DOMAIN),
    ("spiffe:///", NO_DOMAIN),
    ("spiffe:///path", NO_DOMAIN),
    ("spiffe:///path/", NO_DOMAIN),
    (f"{TD}/", SLASH),
    (f"{TD}//", SLASH),
    (f"{TD}/path/", SLASH),
    (f"{TD}//path", SEGMENT),
    (f"{TD}/path//other", SEGMENT),
    (f"{TD}/.", DOT),
    (f"{TD}/./path", DOT),
    (f"{TD}/path/./other", DOT),
    (f"{TD}/path/..", DOT),
    (f"{TD}/..", DOT),
    (f"{TD}/../path", DOT),
    (f"{TD}/path/../other", DOT),
    ("spiffe://%F0%9F%A4%AF/path", DOMAIN),
    (f"{TD}/%F0%9F%A4%AF", PATH),
    ("spiffe://%62%61%64/path", DOMAIN),
    (f"{TD}/%62%61%64", PATH),
    ("spiffe://trust$domain", DOMAIN),
    ("spiffe://TrustDomain/path", DOMAIN),
    (f"{TD}/path$", PATH),
    (f"{TD}:443/x", DOMAIN),
    ("spiffe://u@td/x", DOMAIN),
    ("spiffe://[::1]/x", DOMAIN),
    (f"{TD}?q", DOMAIN),
    (f"{TD}#f", DOMAIN),
    (f"{TD}/x?q", PATH),
    (f"{TD}/x#f", PATH),
    (f"{TD}\n", DOMAIN),
    (f"{TD}/path\n", PATH),
    (f"{TD}/path\r", PATH),
    (f"{TD}/path\0", PATH),
    (f"{TD}/path ", PATH),
    ("spiffe://\uff54\uff44/path", DOMAIN),
    (f"{TD}/\uff50ath", PATH),
    (f"{TD}/\u0661", PATH),  # a digit, though no ASCII one
    (f"spiffe://{'a' * 256}/path", "trust_domain_too_long"),
    (f"{TD}/{'a' * (2049 - len(TD) - 1)}", "id_too_long"),
]


@pytest.mark.parametrize("text", VALID)
def test_reads_what_the_standard_allows(text: str) -> None:
    """Every valid vector is read and written back unchanged."""
    assert str(SpiffeID.parse(text)) == text


@pytest.mark.parametrize(("text", "reason"), INVALID)
def test_refuses_what_the_standard_forbids(text: str, reason: str) -> None:
    """Every invalid vector is refused with the reason of its own rule."""
    with pytest.raises(InvalidSpiffeIDError) as caught:
        SpiffeID.parse(text)
    assert (caught.value.text, caught.value.reason) == (text, reason)


def test_splits_domain_and_path() -> None:
    """The parts are told apart at the first slash."""
    assert SpiffeID.parse("spiffe://td/a/b") == SpiffeID("td", "/a/b")


@pytest.mark.parametrize("code", range(256))
def test_every_character_is_in_or_out(code: int) -> None:
    """No character outside the two alphabets is let through anywhere."""
    char = chr(code)
    for text, fine in (
        (f"spiffe://trust{char}domain", char in IN_DOMAINS + "/"),
        (f"{TD}/pa{char}th", char in IN_PATHS + "/"),
        (f"{TD}/path{char}", char in IN_PATHS),
    ):
        if fine:
            assert str(SpiffeID.parse(text)) == text
        else:
            with pytest.raises(InvalidSpiffeIDError):
                SpiffeID.parse(text)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/", SLASH),
        ("//foo", SEGMENT),
        ("/$", PATH),
        ("/.", DOT),
        ("/..", DOT),
        ("foo", "no_leading_slash"),
        ("/foo/", SLASH),
        ("/a\n", PATH),
    ],
)
def test_cannot_be_made_malformed(path: str, reason: str) -> None:
    """Making one from its parts keeps the same rules as reading it."""
    with pytest.raises(InvalidSpiffeIDError) as caught:
        SpiffeID("td", path)
    assert caught.value.reason == reason


def test_cannot_be_changed() -> None:
    """An identity that was checked stays what was checked."""
    identity = SpiffeID.parse(TD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        identity.path = "/.."  # type: ignore[misc]


def test_there_is_no_identity_without_a_domain() -> None:
    """The unset identity of other libraries cannot be written down."""
    with pytest.raises(InvalidSpiffeIDError, match="the trust domain is missing"):
        SpiffeID("", "")


def test_a_long_text_is_not_echoed_whole() -> None:
    """Hostile input cannot flood the log."""
    with pytest.raises(InvalidSpiffeIDError) as caught:
        SpiffeID.parse("spiffe://td/" + "$" * 100_000)
    assert len(str(caught.value)) < 300


@given(st.text())
@example("spiffe://td/a")
def test_reads_back_or_refuses(text: str) -> None:
    """Whatever is read means exactly what was written."""
    for candidate in (text, f"spiffe://{text}", f"{TD}/{text}"):
        try:
            identity = SpiffeID.parse(candidate)
        except InvalidSpiffeIDError:
            continue
        assert str(identity) == candidate


@given(
    st.text(IN_DOMAINS, min_size=1, max_size=255),
    st.lists(
        st.text(IN_PATHS, min_size=1).filter(lambda s: s not in {".", ".."}),
        max_size=5,
    ),
)
def test_reads_every_well_formed_identity(domain: str, segments: list[str]) -> None:
    """What the grammar makes is read into the same parts."""
    path = "".join(f"/{segment}" for segment in segments)
    identity = SpiffeID.parse(f"spiffe://{domain}{path}")
    assert (identity.trust_domain, identity.path) == (domain, path)


@pytest.mark.parametrize("text", ["td", "spiffe://td", "spiffe://td/path"])
def test_reads_a_trust_domain(text: str) -> None:
    """A bare name and a full identity name the same trust domain."""
    assert parse_trust_domain(text) == "td"


@pytest.mark.parametrize("text", ["", "TD", "td/", "td:443", "spiffe://td/..", "a:/b"])
def test_refuses_what_is_no_trust_domain(text: str) -> None:
    """A trust domain in no form, or with a bad path behind it, is refused."""
    with pytest.raises(InvalidSpiffeIDError):
        parse_trust_domain(text)
