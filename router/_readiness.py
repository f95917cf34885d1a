"""Whether the Router wants calls: it has an identity and knows the sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, Protocol

if TYPE_CHECKING:
    from clock import Clock
    from router._watch import Watch
    from tlsloader import Source

__all__ = ["follow_identity", "follow_sessions"]

_UNHEARD = "no word of the WorkloadManager yet"
_EXPIRED = "our identity has expired"
_LOOK = 1.0


class Health(Protocol):
    """What of `serving.Health` is needed here."""

    def hold(self, cause: str) -> None:
        """Be not ready."""

    def release(self, cause: str) -> None:
        """Take that back."""


async def follow_sessions(health: Health, watch: Watch) -> None:
    """Be not ready until the first list of sessions is complete.

    Later silence of the WorkloadManager changes nothing: live sessions go on.
    """
    health.hold(_UNHEARD)
    await watch.begun.wait()
    health.release(_UNHEARD)


async def follow_identity(health: Health, source: Source, clock: Clock) -> NoReturn:
    """Be not ready while nobody can be proven who we are."""
    while True:
        if clock.now() < source.current().not_after:
            health.release(_EXPIRED)
        else:
            health.hold(_EXPIRED)
        await clock.sleep(_LOOK)
