"""A connection that is being carried: whose it is, and until when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tlsloader._errors import PeerRefusedError
from tlsloader._verify import recheck

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clock import Clock
    from tlsloader._bundle import TrustBundle
    from tlsloader._matchers import Allowlist
    from tlsloader._relay import Relay
    from tlsloader._verify import Peer

__all__ = ["Carried"]

_SHARE: Final = 10
_MARGIN: Final = 30.0
_LOOK: Final = 60.0


class Carried:
    """A relay with the peer it was proven to lead to.

    Some time before the peer's leaf ends (30 s, or a tenth of what is left of it)
    the client is asked to open a new connection for new calls.
    """

    def __init__(self, relay: Relay, peer: Peer | None, clock: Clock) -> None:
        self.relay = relay
        self.peer = peer
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        if peer is not None:
            left = (peer.not_after - clock.now()).total_seconds()
            self._keep = min(_MARGIN, left / _SHARE)

    async def run(self) -> None:
        """Carry bytes until one side ends; cancelled: end both now."""
        try:
            self.relay.start()
            self._look()
            await self.relay.wait_closed()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.relay.abort()

    def judge(
        self, bundles: Mapping[str, TrustBundle], allow: Allowlist
    ) -> PeerRefusedError | None:
        """Say why the peer may not stay under new *bundles* or a new *allow*.

        Its dates do not count: the end of a leaf ends no running stream.
        """
        if self.peer is None:
            return None
        now = self._clock.now()
        when = max(self.peer.not_before, min(now, self.peer.not_after))
        try:
            self.peer = recheck(self.peer, bundles=bundles, allow=allow, now=when)
        except PeerRefusedError as error:
            return error
        return None

    def _look(self) -> None:
        if self.peer is None:
            return
        left = (self.peer.not_after - self._clock.now()).total_seconds() - self._keep
        if left <= 0:
            self.relay.goaway()
            return
        # In short steps, since the wall clock may jump
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(left, _LOOK), self._look)
