"""How PicoD comes by its identity when it is handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clock import SYSTEM
from cubemesh.v1 import picod_pb2
from picod._handed import Hand
from tlsloader import Handed, HandedSource

if TYPE_CHECKING:
    from clock import Clock

__all__ = ["begin_handed", "handed_from_wire"]


async def begin_handed(
    descriptor: int, *, wait: float = 30.0, clock: Clock = SYSTEM
) -> HandedSource:
    """Return the source of the identity that comes through *descriptor*, and close it.

    Raises:
        FatalError: it does not come within *wait* seconds, or is no identity.
        MaterialError: it is not usable.
    """
    hand = Hand("--identity-fd", descriptor)
    message = await hand.take(picod_pb2.Identity, wait=wait, clock=clock)
    return await HandedSource.begin(handed_from_wire(message), clock=clock)


def handed_from_wire(message: picod_pb2.Identity) -> Handed:
    """Return what *message* hands over."""
    foreign = dict(message.foreign_bundles)
    return Handed(message.key, message.chain, message.bundle, foreign)
