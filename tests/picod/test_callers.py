"""Who may call what at each door, decided without a server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from auth import PRINCIPAL_METADATA, Denied, Principal
from clock import SYSTEM
from picod._callers import by_certificate, by_socket, by_token
from picod._sandbox import Sandbox
from tests.fakes import FakeClock
from tests.picod.process import ADA, ROUTER, SANDBOX, SESSION, WORKLOADMANAGER
from tests.picod.test_sandbox import binding
from tlsloader import Peer, PeerRefusedError, SpiffeID

STAT = "/cubemesh.v1.PicoD/Stat"
BIND = "/cubemesh.v1.SandboxControl/Bind"
HEALTH = "/grpc.health.v1.Health/Check"
ROUTER_ID = SpiffeID.parse(ROUTER)


class Context:
    """As much of a call as a decision looks at."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def peer(self) -> str:
        return "unix-abstract:x"

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata


class Acceptor:
    """Has proven one peer, or none."""

    def __init__(self, identity: str | None = None) -> None:
        self._identity = identity

    def peer(self, context_peer: str) -> Peer | None:
        assert context_peer == "unix-abstract:x"
        if self._identity is None:
            return None
        now = SYSTEM.now()
        return Peer(
            id=SpiffeID.parse(self._identity),
            leaf_sha256="",
            not_before=now,
            not_after=now + timedelta(hours=1),
            chain=(),
            bundle_fingerprint="",
        )


class Unknown:
    """Knows no connection by that name."""

    def peer(self, _: str) -> Peer | None:
        raise PeerRefusedError("unknown_connection", "nobody proved it")


def reason(decide: Any, method: str, context: Context) -> str:
    with pytest.raises((Denied, PeerRefusedError)) as caught:
        decide(method, context)
    error: Any = caught.value
    why: str = error.reason
    return why


NAMED = Context((PRINCIPAL_METADATA, ADA.encode()))


def test_the_router_calls_for_the_one_it_names() -> None:
    """The caller is whom the Router names, not the Router."""
    decide = by_certificate(Acceptor(ROUTER), ROUTER_ID)
    assert decide(STAT, NAMED) == ADA  # type: ignore[arg-type]
    assert decide(HEALTH, Context()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("who", "method", "why"),
    [
        (ROUTER, BIND, "unlisted_method"),
        (ROUTER, "/cubemesh.v1.PicoDs/Stat", "unlisted_method"),
        (WORKLOADMANAGER, STAT, "not_admitted"),
        (None, STAT, "no_certificate"),
    ],
)
def test_the_data_door_is_for_the_router_alone(
    who: str | None, method: str, why: str
) -> None:
    """Even if the acceptor let somebody through, the policy does not."""
    assert reason(by_certificate(Acceptor(who), ROUTER_ID), method, NAMED) == why


def test_an_unproven_connection_is_refused() -> None:
    """Who reached the server around its door is nobody, at both doors."""
    for decide in (by_certificate(Unknown(), ROUTER_ID), by_socket(Unknown())):
        assert reason(decide, STAT, NAMED) == "unknown_connection"


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        ((PRINCIPAL_METADATA, ADA.encode()), (PRINCIPAL_METADATA, ADA.encode())),
        ((PRINCIPAL_METADATA, b"{}"),),
        ((PRINCIPAL_METADATA, b'{"issuer":"a","subject":"b"}'),),
    ],
)
def test_the_caller_must_be_one_and_well_formed(
    metadata: tuple[tuple[str, bytes], ...],
) -> None:
    """Nobody, two and garbage are not a caller."""
    decide = by_certificate(Acceptor(ROUTER), ROUTER_ID)
    assert reason(decide, STAT, Context(*metadata)) == "no_principal"


def test_the_control_door_is_for_control() -> None:
    """Our own user may not use the sandbox by it, and no certificate opens it."""
    decide = by_socket(Acceptor())
    decide(BIND, Context())  # type: ignore[arg-type]
    assert reason(decide, STAT, NAMED) == "unlisted_method"
    assert reason(by_socket(Acceptor(ROUTER)), BIND, Context()) == "not_admitted"


class Claims:
    principal = ADA


class Verifier:
    """Takes the token "good" and notes which session it was to be for."""

    session: str | None = "unasked"

    def verify(self, token: str, *, session_id: str | None = None) -> Claims:
        assert token == "good"
        self.session = session_id
        return Claims()


def test_a_token_is_verified_for_the_bound_session() -> None:
    """The token's session must be the sandbox's, once there is one."""
    verifier, sandbox = Verifier(), Sandbox(SANDBOX)
    decide = by_token(verifier, sandbox)  # type: ignore[arg-type]
    shown: Any = Context(("authorization", "Bearer good"))
    assert isinstance(decide(STAT, shown), Principal)
    assert verifier.session is None
    sandbox.bind(binding(FakeClock()))
    decide(STAT, shown)
    assert verifier.session == SESSION
    assert reason(decide, STAT, Context()) == "no_token"
    assert reason(decide, BIND, shown) == "unlisted_method"
