"""Carry bytes between two connections, with back-pressure both ways."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from tlsloader._frames import GOAWAY, PREFACE, FrameFollower, goaway

if TYPE_CHECKING:
    from tlsloader._end import End

__all__ = ["LAST_WORDS", "LINGER", "SETTLE", "Relay"]

LINGER: Final = 2.0
"""Seconds that the last bytes may take once one side has ended."""

LAST_WORDS: Final = 0.5
"""Seconds that a connection may take which has to end now, but with a reason."""

SETTLE: Final = 1.0
"""Seconds after which a client surely knows that it is connected."""


class Relay:
    """Join a server's and a client's connection until one of them ends.

    What one side sent before it ended still reaches the other, within `LINGER`.
    """

    def __init__(self, *, server: End, client: End) -> None:
        self._server, self._client = server, client
        self._frames = FrameFollower()
        self._asked = FrameFollower(skip=len(PREFACE))
        self._settled = False
        self._due = b""  # a frame of ours, for the next border
        self._withheld = b""  # what the server said too early
        self._leaving = self._ending = False
        self._closing: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Let the bytes flow, first those that came already."""
        server, client = self._server, self._client
        server.attach(self._from_server, self.close, client.hold)
        client.attach(self._from_client, self.close, server.hold)
        loop = asyncio.get_running_loop()
        self._settling = loop.call_later(SETTLE, self._settle)
        client.hold(server.full)
        server.hold(client.full)
        # A client waits for the server's SETTINGS before its first call
        server.release()
        client.release()

    def goaway(self) -> None:
        """Ask the client to open a new connection for new calls, at the next border.

        Not before its first call, or `SETTLE` seconds: gRPC clients do not notice a
        GOAWAY that comes with the very first SETTINGS, keep the connection for new
        calls, and try them on it for ever. One of the server's own waits, too.
        """
        if self._leaving or self._ending or self._frames.goaway_seen:
            return
        self._leaving = True
        self._due = GOAWAY
        self._speak()

    def end(self, reason: str) -> None:
        """End both sides now, but let the client's calls fail with the *reason*.

        It is told at the next border, within `LAST_WORDS`. Nothing that either side
        says reaches the other any more, but for the rest of the server's frame.
        """
        if self._closing is not None:
            return
        self._settle()
        self._ending = True
        self._due = goaway(reason)
        loop = asyncio.get_running_loop()
        self._closing = loop.call_later(LAST_WORDS, self.abort)
        self._client.silence()
        self._speak()

    def close(self) -> None:
        """End both sides after what was sent already; `abort` after `LINGER`."""
        if self._closing is not None:
            return
        loop = asyncio.get_running_loop()
        self._closing = loop.call_later(LINGER, self.abort)
        self._client.send(self._withheld)
        for end in (self._server, self._client):
            end.silence()
            end.transport.close()

    def abort(self) -> None:
        """End both sides now; what was not sent is lost."""
        for end in (self._server, self._client):
            end.silence()
            end.transport.abort()

    async def wait_closed(self) -> None:
        """Return once both connections are gone."""
        try:
            await asyncio.shield(self._server.lost)
            await asyncio.shield(self._client.lost)
        finally:
            for timer in (self._closing, self._settling):
                if timer is not None:
                    timer.cancel()

    def _speak(self) -> None:
        """Say what is due, if now is a moment for it."""
        if self._due and self._may_speak and self._frames.at_border:
            self._client.send(self._due)
            self._spoken()

    @property
    def _may_speak(self) -> bool:
        return self._settled or self._ending

    def _spoken(self) -> None:
        self._due = b""
        if self._ending:
            self._server.silence()
            self._server.transport.abort()
            self._client.transport.close()

    def _settle(self) -> None:
        """Remember that the client uses its connection, or has known it for long."""
        self._settled = True
        if self._withheld:
            self._client.send(self._withheld)
            self._withheld = b""
            self._server.hold(self._client.full)
        self._speak()

    def _from_client(self, data: bytes) -> None:
        self._server.send(data)
        self._asked.feed(data)
        if self._asked.headers_seen:
            self._client.redirect(self._server.send)
            self._settle()

    def _from_server(self, data: bytes) -> None:
        border = self._frames.feed(data)
        if self._frames.goaway_seen and not self._ending:
            self._due = b""  # it has said so itself, perhaps with an earlier end
            if not self._settled:
                self._withhold(data)
                return
        if border < 0 or not (self._due and self._may_speak):
            self._client.send(data)
            return
        rest = b"" if self._ending else data[border:]
        self._client.send(data[:border] + self._due + rest)
        self._spoken()

    def _withhold(self, data: bytes) -> None:
        """Keep all that comes from the server's GOAWAY on, until the client settles."""
        early = 0 if self._withheld else self._frames.goaway_at
        self._client.send(data[:early])
        self._withheld += data[early:]
        self._server.hold(paused=True)
