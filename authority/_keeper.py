"""Keep identities fresh in the folders of those who use them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authority._errors import AuthorityError
from authority._files import write_identity
from clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta
    from pathlib import Path

    from authority._authority import Authority
    from clock import Clock
    from tlsloader import SpiffeID

__all__ = ["Holder", "keep"]

_log = logging.getLogger(__name__)

# The longest sleep at a stretch: a machine that was suspended, or whose wall clock
# jumped, renews this soon after.
_STRETCH = 15.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who gets an identity, where, and under which further names."""

    identity: SpiffeID
    folder: Path
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()


async def keep(
    authority: Authority,
    holders: Sequence[Holder],
    *,
    life: timedelta,
    ready: Callable[[], None] = lambda: None,
    clock: Clock = SYSTEM,
) -> None:
    """Renew the identities of all *holders* at half of their *life*, until cancelled.

    Calls *ready* once all have their first one. A later failure, say a full disk,
    is logged and tried again soon; the old identities stay.

    Raises:
        OSError: the first ones cannot be written.
        AuthorityError: the first ones cannot be issued.
    """
    await asyncio.to_thread(_renew, authority, holders, life, clock)
    ready()
    rest = life / 2
    while True:
        await _until_due(rest, clock)
        try:
            await asyncio.to_thread(_renew, authority, holders, life, clock)
        except (OSError, AuthorityError) as error:
            rest = life / 10
            _log.warning("identities not renewed", extra={"detail": str(error)})
        else:
            rest = life / 2


async def _until_due(rest: timedelta, clock: Clock) -> None:
    """Return after *rest* of wall time, or when the wall clock went back."""
    start = clock.now()
    while start <= (now := clock.now()) < start + rest:
        left = (start + rest - now).total_seconds()
        await clock.sleep(min(left, _STRETCH))


def _renew(
    authority: Authority, holders: Sequence[Holder], life: timedelta, clock: Clock
) -> None:
    for holder in holders:
        issued = authority.issue(
            holder.identity,
            life=life,
            now=clock.now(),
            dns_names=holder.dns_names,
            ip_addresses=holder.ip_addresses,
        )
        write_identity(holder.folder, issued)
        fields = {
            "identity": str(issued.identity),
            "not_after": issued.not_after.isoformat(),
            "leaf_sha256": issued.leaf_sha256,
        }
        _log.info("identity issued", extra=fields)
