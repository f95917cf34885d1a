"""JWT-SVIDs of our own, from a SPIFFE agent.

Apart from the rest of the room, like `tlsloader.workload`, because it speaks gRPC.

Source: SPIFFE Workload API, section 6.2.1.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from clock import SYSTEM
from tlsloader._agent import Agent, messages
from tlsloader._errors import MaterialError
from tlsloader._jwt import JWTSVID

if TYPE_CHECKING:
    from datetime import datetime

    from clock import Clock
    from tlsloader._spiffe import SpiffeID

__all__ = ["JWTSVIDSource"]

_PATIENCE: Final = 5.0
_MOST_TOKENS: Final = 256


class _Kept(NamedTuple):
    svid: JWTSVID
    stale: datetime


class JWTSVIDSource:
    """JWT-SVIDs of our own, each used until half of its life is over.

    Args:
        endpoint: ``unix:///path``, where the agent is.
        spiffe_id: whose to fetch, if the agent knows us by several identities.
        clock: what tells the time.

    Raises:
        ValueError: *endpoint* is no such address.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        spiffe_id: SpiffeID | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._agent = Agent(endpoint, clock)
        self._wanted = str(spiffe_id or "")
        self._clock = clock
        self._kept: OrderedDict[frozenset[str], _Kept] = OrderedDict()
        self._fetching = asyncio.Lock()

    async def fetch(self, *audience: str, wait: float = _PATIENCE) -> JWTSVID:
        """Return a token for *audience*; one is best, since each can pass it on.

        Raises:
            MaterialError: the agent gives none within *wait* seconds, or another than
                was asked for.
            ValueError: there is no audience.
        """
        if not audience or not all(audience):
            raise ValueError("a token is for somebody")
        wanted = frozenset(audience)
        if (svid := self._fresh(wanted)) is not None:
            return svid
        async with self._fetching:
            if (svid := self._fresh(wanted)) is not None:
                return svid
            return self._keep(wanted, await self._ask(wanted, wait))

    def _fresh(self, audience: frozenset[str]) -> JWTSVID | None:
        kept = self._kept.get(audience)
        return kept.svid if kept and self._clock.now() < kept.stale else None

    def _keep(self, audience: frozenset[str], svid: JWTSVID) -> JWTSVID:
        now = self._clock.now()
        if svid.expires <= now:
            text = f"the agent gave a token that ended at {svid.expires:%FT%TZ}"
            raise MaterialError("expired", text)
        self._kept[audience] = _Kept(svid, now + (svid.expires - now) / 2)
        self._kept.move_to_end(audience)
        if len(self._kept) > _MOST_TOKENS:
            self._kept.popitem(last=False)
        return svid

    async def _ask(self, audience: frozenset[str], wait: float) -> JWTSVID:
        # In a thread, since the first request loads a package
        request = await asyncio.to_thread(_request, audience, self._wanted)
        said = await self._agent.ask("FetchJWTSVID", request, "JWTSVIDResponse", wait)
        if not said.svids:
            raise MaterialError("no_identity", "the agent's answer holds no token")
        first = said.svids[0]
        svid = JWTSVID.parse(first.svid)
        wanted = self._wanted or first.spiffe_id
        if not str(svid.identity) == first.spiffe_id == wanted:
            text = f"the agent gave a token of {svid.identity} as {first.spiffe_id!r}"
            raise MaterialError("other_identity", text)
        if not audience.issubset(svid.audience):
            text = f"the agent gave a token for {', '.join(svid.audience)}"
            raise MaterialError("other_audience", text)
        return svid


def _request(audience: frozenset[str], spiffe_id: str) -> bytes:
    fields = {"audience": sorted(audience), "spiffe_id": spiffe_id}
    raw: bytes = messages().JWTSVIDRequest(**fields).SerializeToString()
    return raw
