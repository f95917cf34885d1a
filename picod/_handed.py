"""What a PicoD is handed at its start: one message through a descriptor each."""

from __future__ import annotations

import asyncio
import os
import select
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from google.protobuf.message import DecodeError, Message

from clock import SYSTEM
from serving import FatalError

if TYPE_CHECKING:
    from clock import Clock

__all__ = ["Hand"]

_LARGEST: Final = 4 << 20
M = TypeVar("M", bound=Message)


class Hand:
    """The *descriptor* that the flag *name* has told, which is read once."""

    def __init__(self, name: str, descriptor: int) -> None:
        self._place, self._descriptor = f"{name} {descriptor}", descriptor

    async def take(
        self, kind: type[M], *, wait: float = 30.0, clock: Clock = SYSTEM
    ) -> M:
        """Return the message that comes, and close the descriptor.

        Raises:
            FatalError: none comes within *wait* seconds, or none of this *kind*.
        """
        name = kind.DESCRIPTOR.name
        try:
            data = await asyncio.to_thread(self._drained, wait, clock)
            return kind.FromString(data)
        except DecodeError:  # its text may quote a secret
            raise FatalError(
                f"what came through {self._place} is no {name}",
                f"write one cubemesh.v1.{name} there, then close it",
            ) from None

    def _drained(self, wait: float, clock: Clock) -> bytes:
        """Return all that comes; blocks, but not for ever."""
        deadline = clock.monotonic() + wait
        ready, data = select.poll(), bytearray()
        try:
            ready.register(self._descriptor, select.POLLIN)
            while ready.poll(max(0.0, deadline - clock.monotonic()) * 1000):
                chunk = os.read(self._descriptor, 1 << 16)
                data += chunk
                if not chunk:
                    return bytes(data)
                if len(data) > _LARGEST:
                    self._refuse(f"{self._place} does not end")
            self._refuse(
                f"nothing came to its end through {self._place} within {wait:g} s"
            )
        except OSError as error:
            self._refuse(f"{self._place} cannot be read ({error.strerror})")
        finally:
            self._close()

    def _refuse(self, text: str) -> NoReturn:
        raise FatalError(text, "write one message there, then close it")

    def _close(self) -> None:
        try:
            os.close(self._descriptor)
        except OSError:
            return  # it was none
