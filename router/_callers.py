"""Who calls: the proven peer of the front door as a principal with rights."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

from auth import PRINCIPAL_METADATA, Denied, Principal
from tlsloader import PeerRefusedError

if TYPE_CHECKING:
    from tlsloader import Allowlist, Peer, SpiffeID

__all__ = ["Caller", "Callers"]

_KNOWN_LIMIT = 10_000
_SANDBOX = re.compile(r"/ns/[^/]+/sandbox/[^/]+")


class Caller:
    """One principal and what it may; equal to itself only, one object per identity."""

    __slots__ = ("admin", "introduction", "principal")

    def __init__(self, principal: Principal, *, admin: bool) -> None:
        self.principal, self.admin = principal, admin
        # How a sandbox is told, where the Router's certificate vouches for it.
        self.introduction = ((PRINCIPAL_METADATA, principal.encode()),)

    def owns(self, owner: Principal) -> bool:
        """Say whether what belongs to *owner* is this caller's to use."""
        return self.admin or self.principal.key == owner.key


class Proven(Protocol):
    """What of an acceptor is needed here."""

    def peer(self, context_peer: str) -> Peer | None:
        """Return who was proven on the connection of a call."""

    def evict(self, identity: SpiffeID, error: PeerRefusedError) -> None:
        """End the connections of *identity*, with the calls that run on them."""


class Callers:
    """Turns the peer of each call into its `Caller`; the gate's decision."""

    def __init__(self, door: Proven, admins: Allowlist) -> None:
        self._door, self._admins = door, admins
        self._known: OrderedDict[SpiffeID, Caller] = OrderedDict()

    def decide(self, method: str, context: Any) -> Caller:
        """Return who makes this call.

        Raises:
            PeerRefusedError: its connection is not, or no longer, proven.
            Denied: it showed no certificate, or is itself a sandbox.
        """
        peer = self._door.peer(context.peer())
        if peer is None:
            raise Denied("no_certificate", f"nobody is proven to call {method}")
        caller = self._known.get(peer.id)
        return self._welcome(peer.id) if caller is None else caller

    def change_admins(self, admins: Allowlist) -> None:
        """Let *admins* use everybody's sessions; end the calls of who no longer may.

        Those may come again, as ordinary callers.
        """
        self._admins = admins
        for peer, caller in tuple(self._known.items()):
            if caller.admin != admins.admits(peer):
                del self._known[peer]
                if caller.admin:
                    text = f"{peer} is no administrator any more"
                    error = PeerRefusedError("not_admin", text, peer_id=peer)
                    self._door.evict(peer, error)

    def _welcome(self, peer: SpiffeID) -> Caller:
        # Whatever --client-ids admits: untrusted code never gets at other sandboxes.
        if _SANDBOX.fullmatch(peer.path):
            raise Denied("sandbox", f"{peer} is a sandbox")
        caller = Caller(Principal.of(peer), admin=self._admins.admits(peer))
        self._known[peer] = caller
        if len(self._known) > _KNOWN_LIMIT:
            self._known.popitem(last=False)
        return caller
