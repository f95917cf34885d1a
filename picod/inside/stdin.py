"""What a command reads from its standard input."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from picod.inside.link import Call


class Input:
    """Gives a pipe what comes, and lets PicoD send more as the command reads.

    Args:
        call: the stream that it comes on.
        descriptor: the pipe's writing end; -1: what comes is dropped.

    """

    def __init__(self, call: Call, descriptor: int) -> None:
        self._call, self._descriptor = call, descriptor
        self._waiting: list[bytes] = []
        self._over = False

    def add(self, payload: bytes) -> None:
        """Give *payload*.

        Raises:
            ProtocolError: more came than was allowed.

        """
        self._call.count(len(payload))
        self._waiting.append(payload)
        self._go_on()

    def finish(self) -> None:
        """Close it once all is given."""
        self._over = True
        self._go_on()

    def close(self) -> None:
        """Close it now; the rest is dropped."""
        if self._descriptor >= 0:
            self._call.link.watch(self._descriptor, 0, self._go_on)
            os.close(self._descriptor)
            self._descriptor = -1
        self._call.take(sum(map(len, self._waiting)))
        self._waiting = []

    def _go_on(self) -> None:
        try:
            while self._waiting and self._descriptor >= 0:
                written = os.write(self._descriptor, self._waiting[0])
                self._call.take(written)
                self._waiting[0] = self._waiting[0][written:]
                if not self._waiting[0]:
                    del self._waiting[0]
        except BlockingIOError:
            self._call.link.watch(self._descriptor, select.EPOLLOUT, self._go_on)
            return
        except OSError:
            self._over = True  # nobody reads it any more
            self._waiting = self._waiting[:]
        if self._over or self._descriptor < 0:
            self.close()
        else:
            self._call.link.watch(self._descriptor, 0, self._go_on)
