"""Who may speak to PicoD, decided before every call: one function per door."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from auth import (
    PRINCIPAL_METADATA,
    Denied,
    InvalidPrincipalError,
    Policy,
    Principal,
    bearer,
)
from serving import HEALTH_METHODS
from tlsloader import Allowlist, PeerRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from auth import Verifier
    from picod._sandbox import Sandbox
    from tlsloader import Peer, SpiffeID

    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["by_certificate", "by_socket", "by_token"]

_DATA = "/cubemesh.v1.PicoD/"
_CONTROL = "/cubemesh.v1.SandboxControl/"
_HEALTH = HEALTH_METHODS.removesuffix("*")


class _Acceptor(Protocol):
    def peer(self, context_peer: str) -> Peer | None: ...


def by_certificate(
    acceptor: _Acceptor, router_id: SpiffeID
) -> Callable[[str, Context], Principal | None]:
    """Admit *router_id* alone; the caller is the principal that it names."""
    only = Allowlist.parse(str(router_id))
    policy = Policy({f"{_DATA}*": only, f"{_HEALTH}*": only})

    def decide(method: str, context: Context) -> Principal | None:
        peer = acceptor.peer(context.peer())
        policy.require(method, peer.id if peer else None)
        return None if method.startswith(_HEALTH) else _principal(context)

    return decide


def by_token(
    verifier: Verifier, sandbox: Sandbox
) -> Callable[[str, Context], Principal]:
    """Admit who shows a Router's token for this sandbox and its session."""

    def decide(method: str, context: Context) -> Principal:
        _require_service(method, _DATA, _HEALTH)
        token = bearer(context.invocation_metadata() or ())
        claims = verifier.verify(token, session_id=sandbox.session_id or None)
        return claims.principal

    return decide


def by_socket(acceptor: _Acceptor) -> Callable[[str, Context], None]:
    """Admit whom the control door let in: processes of our own user."""

    def decide(method: str, context: Context) -> None:
        if acceptor.peer(context.peer()) is not None:
            raise PeerRefusedError("not_admitted", "this door is for no network peer")
        _require_service(method, _CONTROL, _HEALTH)

    return decide


def _require_service(method: str, *services: str) -> None:
    if not method.startswith(services):
        raise Denied("unlisted_method", f"nobody may call {method} here")


# The Router names few callers, and each in every call.
_decoded = lru_cache(maxsize=256)(Principal.decode)


def _principal(context: Context) -> Principal:
    """Return the one caller that the Router names."""
    metadata = context.invocation_metadata() or ()
    told = [value for key, value in metadata if key == PRINCIPAL_METADATA]
    if len(told) != 1 or not isinstance(told[0], bytes):
        raise Denied("no_principal", "the Router named no caller, or several")
    try:
        return _decoded(told[0])
    except InvalidPrincipalError as error:
        raise Denied("no_principal", f"the caller is malformed: {error}") from None
