"""A connection that is being carried: whose it is, and until when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from tlsloader._errors import PeerRefusedError
from tlsloader._verify import recheck

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clock import Clock
    from tlsloader._bundle import TrustBundle
    from tlsloader._matchers import Allowlist
    from tlsloader._relay import Relay
    from tlsloader._tally import Tally
    from tlsloader._verify import Peer

__all__ = ["FOR_A_WHILE", "Carried", "Stay"]

_SHARE: Final = 10
_MARGIN: Final = 30.0
_LOOK: Final = 10.0


class Stay(NamedTuple):
    """How long, in seconds, a connection may stay once it was asked to go.

    *idle* without a call, and until a new call is one too many; *busy* with calls
    that run.
    """

    idle: float = 60.0
    busy: float = 86_400.0


FOR_A_WHILE: Final = Stay()


class Carried:
    """A relay with the peer it was proven to lead to, counted in *tally*.

    Some time before the peer's leaf ends (30 s, or a tenth of what is left of it)
    the client is asked to open a new connection for new calls. While it stays after
    it was asked to go, *stays* is called now and then.
    """

    def __init__(  # noqa: PLR0913
        self,
        relay: Relay,
        peer: Peer | None,
        *,
        name: str = "",
        clock: Clock,
        tally: Tally,
        stay: Stay,
        stays: Callable[[Carried], None],
    ) -> None:
        self.relay = relay
        self.peer = peer
        self.name = name
        self.evicted: PeerRefusedError | None = None
        """Why it had to end before its time."""
        self._clock = clock
        self._tally = tally
        self._stay = stay
        self._stays = stays
        self._left_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if peer is not None:
            left = (peer.not_after - clock.now()).total_seconds()
            self._keep = min(_MARGIN, left / _SHARE)

    async def run(self) -> None:
        """Carry bytes until one side ends; cancelled: end both now."""
        self._tally.connections += 1
        try:
            self.relay.start()
            self._look()
            await self.relay.wait_closed()
        finally:
            self._tally.connections -= 1
            if self._timer is not None:
                self._timer.cancel()
            self.relay.abort()

    def leave(self) -> None:
        """Ask the client to go when its calls have ended."""
        if self._left_at is None:
            self._left_at = self._clock.monotonic()
            self._tally.drains += 1
            self.relay.goaway()
            self._look_in(self._stay.idle)

    @property
    def overstayed(self) -> bool:
        """Whether it has stayed long enough after it was asked to go."""
        return self._stayed > self._stay.idle

    @property
    def too_old(self) -> bool:
        """Whether not even running calls may keep it any longer."""
        return self._stayed > self._stay.busy

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

    @property
    def _stayed(self) -> float:
        return 0.0 if self._left_at is None else self._clock.monotonic() - self._left_at

    def _look(self) -> None:
        if self._left_at is not None:
            self._stays(self)
            self._look_in(self._stay.idle)
            return
        left = _LOOK
        if self.peer is not None:
            end = (self.peer.not_after - self._clock.now()).total_seconds()
            left = end - self._keep
        if left > 0:
            self._look_in(left)
        else:
            self.leave()

    def _look_in(self, seconds: float) -> None:
        # In short steps, since the wall clock may jump
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(seconds, _LOOK), self._look)
