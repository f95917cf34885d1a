from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlsloader import Allowlist, InvalidMatcherError, SpiffeID, parse_matcher

ADMITTED = [
    ("spiffe://foo.test/A", "spiffe://foo.test/A", True),
    ("spiffe://foo.test/A", "spiffe://foo.test/AB", False),
    ("spiffe://foo.test/A", "spiffe://foo.test/A/B", False),
    ("spiffe://foo.test/A", "spiffe://foo.test/a", False),
    ("spiffe://foo.test/A", "spiffe://foo.test", False),
    ("spiffe://foo.test/A", "spiffe://bar.test/A", False),
    ("spiffe://foo.test/", "spiffe://foo.test", True),
    ("spiffe://foo.test/", "spiffe://foo.test/A", True),
    ("spiffe://foo.test/", "spiffe://foo.test/B", True),
    ("spiffe://foo.test/", "spiffe://foo.test/sub/C", True),
    ("spiffe://foo.test/", "spiffe://bar.test/A", False),
    ("spiffe://foo.test/", "spiffe://foo.test.evil/A", False),
    ("spiffe://foo.test/", "spiffe://xfoo.test/A", False),
    ("spiffe://foo.test/", "spiffe://sub.foo.test/A", False),
    ("spiffe://foo.test/user/", "spiffe://foo.test/user/ann", True),
    ("spiffe://foo.test/user/", "spiffe://foo.test/user/ann/laptop", True),
    ("spiffe://foo.test/user/", "spiffe://foo.test/user", False),
    ("spiffe://foo.test/user/", "spiffe://foo.test/users/ann", False),
    ("spiffe://foo.test/user/", "spiffe://foo.test/x/user/ann", False),
    ("spiffe://foo.test/user/", "spiffe://foo.test.evil/user/ann", False),
    ("spiffe://foo.test/user/", "spiffe://bar.test/user/ann", False),
]


@pytest.mark.parametrize(("rule", "identity", "expected"), ADMITTED)
def test_admits_by_whole_parts(rule: str, identity: str, expected: bool) -> None:  # noqa: FBT001
    """Domains and path segments are compared whole, never as prefixes of text."""
    assert parse_matcher(rule).admits(SpiffeID.parse(identity)) is expected


@pytest.mark.parametrize("rule", sorted({rule for rule, _, _ in ADMITTED}))
def test_is_written_as_it_is_read(rule: str) -> None:
    """A rule in a log can be pasted back into a flag."""
    assert str(parse_matcher(rule)) == rule


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_id"),
        ("/", "empty_id"),
        ("*", "not_spiffe_scheme"),
        ("td", "not_spiffe_scheme"),
        ("spiffe://", "not_spiffe_scheme"),
        ("spiffe:///", "no_trust_domain"),
        ("spiffe://*/user/", "bad_trust_domain"),
        ("spiffe://TD/", "bad_trust_domain"),
        ("spiffe://td/user/*", "bad_path"),
        ("spiffe://td/user/\n", "bad_path"),
        ("spiffe://td//", "trailing_slash"),
        ("spiffe://td/user//", "trailing_slash"),
        ("spiffe://td/../", "dot_segment"),
        ("spiffe://td", "no_path"),
    ],
)
def test_refuses_what_is_no_rule(text: str, reason: str) -> None:
    """A mistyped rule is an error, not a rule that admits nobody or everybody."""
    with pytest.raises(InvalidMatcherError) as caught:
        parse_matcher(text)
    assert (caught.value.text, caught.value.reason) == (text, reason)


def test_a_bare_domain_is_not_a_rule() -> None:
    """Whether one workload or all are meant must be said, and the error says how."""
    with pytest.raises(InvalidMatcherError, match="spiffe://td/ means the whole"):
        parse_matcher("spiffe://td")


@given(st.text())
def test_reads_or_refuses(text: str) -> None:
    """No text makes the parser fail in another way."""
    with suppress(InvalidMatcherError):
        assert str(parse_matcher(text)) == text


def test_an_empty_list_admits_nobody() -> None:
    """Forgetting to say whom to admit closes the door."""
    empty = Allowlist()
    assert not empty.admits(SpiffeID.parse("spiffe://td/a"))
    assert empty.trust_domains == frozenset()
    assert str(empty) == "nobody"


def test_admits_whom_any_rule_admits() -> None:
    """Rules add up, and only their trust domains are ever judged."""
    allow = Allowlist.parse("spiffe://td/a", "spiffe://other/user/")
    assert allow.admits(SpiffeID.parse("spiffe://td/a"))
    assert allow.admits(SpiffeID.parse("spiffe://other/user/ann"))
    assert not allow.admits(SpiffeID.parse("spiffe://td/user/ann"))
    assert allow.trust_domains == {"td", "other"}
    assert str(allow) == "spiffe://td/a, spiffe://other/user/"


def test_one_bad_rule_spoils_the_list() -> None:
    """A list is never read in part."""
    with pytest.raises(InvalidMatcherError):
        Allowlist.parse("spiffe://td/a", "spiffe://td")
