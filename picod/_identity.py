"""How PicoD comes by its identity: handed over to it, or found as a service's is."""

from __future__ import annotations

import asyncio
import os
import select
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from clock import SYSTEM
from cubemesh.v1 import picod_pb2
from serving import FatalError
from tlsloader import Handed, HandedSource

if TYPE_CHECKING:
    from clock import Clock

__all__ = ["begin_handed", "handed_from_wire"]

_LARGEST: Final = 4 << 20
_HINT: Final = "write one cubemesh.v1.Identity there, then close it"


async def begin_handed(
    descriptor: int, *, wait: float = 30.0, clock: Clock = SYSTEM
) -> HandedSource:
    """Return the source of the identity that comes through *descriptor*, and close it.

    Raises:
        FatalError: it does not come within *wait* seconds, or is no identity.
        MaterialError: it is not usable.
    """
    data = await asyncio.to_thread(_drained, descriptor, wait, clock)
    try:
        message = picod_pb2.Identity.FromString(data)
    except DecodeError:
        text = f"what came through --identity-fd {descriptor} is no identity"
        raise FatalError(text, _HINT) from None  # its text may quote the key
    return await HandedSource.begin(handed_from_wire(message), clock=clock)


def handed_from_wire(message: picod_pb2.Identity) -> Handed:
    """Return what *message* hands over."""
    foreign = dict(message.foreign_bundles)
    return Handed(message.key, message.chain, message.bundle, foreign)


def _drained(descriptor: int, wait: float, clock: Clock) -> bytes:
    """Return all that comes through *descriptor*; blocks, but not for ever."""
    deadline = clock.monotonic() + wait
    ready, data = select.poll(), bytearray()
    try:
        ready.register(descriptor, select.POLLIN)
        while ready.poll(max(0.0, deadline - clock.monotonic()) * 1000):
            chunk = os.read(descriptor, 1 << 16)
            data += chunk
            if not chunk:
                return bytes(data)
            if len(data) > _LARGEST:
                raise FatalError(f"--identity-fd {descriptor} does not end", _HINT)
        text = f"nothing came to its end through --identity-fd {descriptor}"
        raise FatalError(f"{text} within {wait:g} s", _HINT)
    except OSError as error:
        text = f"--identity-fd {descriptor} cannot be read ({error.strerror})"
        raise FatalError(text, _HINT) from error
    finally:
        _closed(descriptor)


def _closed(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        return  # it was none
