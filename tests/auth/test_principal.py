"""A principal has one form, and nothing but that form is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth import InvalidPrincipalError, Principal
from tlsloader import SpiffeID


def test_a_certificate_proves_a_principal() -> None:
    """Issuer is the trust domain, subject the full ID, display its last word."""
    principal = Principal.of(SpiffeID.parse("spiffe://example.org/user/alice"))
    assert principal == Principal(
        "spiffe://example.org", "spiffe://example.org/user/alice", "alice"
    )
    assert principal.key == ("spiffe://example.org", "spiffe://example.org/user/alice")


def test_its_bytes_are_fixed() -> None:
    """Two versions of us exchange these bytes; they change with a version only."""
    raw = b'{"display":"c","issuer":"a","subject":"b"}'
    assert Principal("a", "b", "c").encode() == raw


TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=50)


@pytest.mark.slow
@given(TEXT, TEXT, TEXT)
def test_survives_the_wire(issuer: str, subject: str, display: str) -> None:
    """Names in any script arrive as they were."""
    principal = Principal(issuer, subject, display)
    assert Principal.decode(principal.encode()) == principal


@pytest.mark.slow
@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    """Whatever arrives, the answer is a principal or a refusal."""
    with pytest.raises(InvalidPrincipalError):
        Principal.decode(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"issuer":"a","subject":"b"}',
        b'{"display":"c","issuer":"a","subject":"b","admin":"x"}',
        b'{"display":"c","issuer":"a","subject":"b","subject":"d"}',
        b'{"display":"c","issuer":"","subject":"b"}',
        b'{"display":"c","issuer":"a","subject":""}',
        b'{"display":null,"issuer":"a","subject":"b"}',
        b'{"display":"c","issuer":"a","subject":["b"]}',
        b'{"display":"\\n","issuer":"a","subject":"b"}',
        b'{"display":"c","issuer":"a","subject":"b\\ud800"}',
        b'{"display":"c","issuer":"a","subject":"' + b"b" * 2049 + b'"}',
        b'{"display":"' + b"c" * 7000 + b'","issuer":"a","subject":"b"}',
        b'\xff{"display":"c","issuer":"a","subject":"b"}',
    ],
)
def test_refuses(raw: bytes) -> None:
    """A part too many, too few, twice, empty, long or odd is no principal."""
    with pytest.raises(InvalidPrincipalError):
        Principal.decode(raw)
