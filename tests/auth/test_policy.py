"""Who may call what: nobody, unless a rule for that method admits them."""

from __future__ import annotations

import pytest

from auth import Allow, Denied, Deny, Policy
from tlsloader import Allowlist, SpiffeID

ROUTER = SpiffeID.parse("spiffe://example.org/ns/a/sa/agentcube-router")
USER = SpiffeID.parse("spiffe://example.org/user/alice")

POLICY = Policy(
    {
        "/cubemesh.v1.PicoD/*": Allowlist.parse(str(ROUTER)),
        "/cubemesh.v1.Router/*": Allowlist.parse("spiffe://example.org/user/"),
        "/cubemesh.v1.Router/Delete": Allowlist.parse(str(ROUTER)),
        "/cubemesh.v1.Closed/*": Allowlist.parse(),
    }
)


@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("/cubemesh.v1.PicoD/Execute", ROUTER),
        ("/cubemesh.v1.Router/Create", USER),
        ("/cubemesh.v1.Router/Delete", ROUTER),
    ],
)
def test_allows(method: str, peer: SpiffeID) -> None:
    """Who is on the method's list may call it, and is told back."""
    assert POLICY.decide(method, peer) == Allow(peer)
    assert POLICY.require(method, peer) is peer


@pytest.mark.parametrize(
    ("method", "peer", "reason"),
    [
        ("/cubemesh.v1.PicoD/Execute", USER, "not_admitted"),
        ("/cubemesh.v1.PicoD/Execute", None, "no_certificate"),
        ("/cubemesh.v1.Router/Create", ROUTER, "not_admitted"),
        ("/cubemesh.v1.Router/Delete", USER, "not_admitted"),
        ("/cubemesh.v1.Closed/Any", ROUTER, "not_admitted"),
        ("/cubemesh.v1.Other/Any", ROUTER, "unlisted_method"),
        ("/cubemesh.v1.PicoDx/Execute", ROUTER, "unlisted_method"),
        ("/cubemesh.v1.PicoD", ROUTER, "unlisted_method"),
        ("/cubemesh.v1.PicoD/x/Execute", ROUTER, "unlisted_method"),
        ("", ROUTER, "unlisted_method"),
    ],
)
def test_denies(method: str, peer: SpiffeID | None, reason: str) -> None:
    """Everything else is denied, with a reason for our log."""
    decision = POLICY.decide(method, peer)
    assert isinstance(decision, Deny)
    assert decision.reason == reason
    with pytest.raises(Denied) as caught:
        POLICY.require(method, peer)
    assert caught.value.reason == reason


@pytest.mark.parametrize("pattern", ["*", "/*/*", "/a.B", "a.B/C", "/a.B/C*", "/a/b/*"])
def test_refuses_other_patterns(pattern: str) -> None:
    """A pattern that looks as if it did more is a fault, not a surprise."""
    with pytest.raises(ValueError, match="is not"):
        Policy({pattern: Allowlist.parse()})
