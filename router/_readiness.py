"""Whether the Router wants calls: it knows the sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from router._watch import Watch

__all__ = ["follow_sessions"]

_UNHEARD = "no word of the WorkloadManager yet"


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
