"""The keys that JWT-SVIDs are judged by, from a SPIFFE agent.

Apart from the rest of the room, like `tlsloader.workload`, because it speaks gRPC.
Judging is the business of the room above: `auth.JWTSVIDVerifier`.

Source: SPIFFE Workload API, section 6.2.2.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn, Self

from clock import SYSTEM
from tlsloader._agent import Agent
from tlsloader._errors import MaterialError
from tlsloader._followed import awaited
from tlsloader._jwt import JWTBundle
from tlsloader._svids import domain_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clock import Clock

__all__ = ["JWTBundleSource"]

_log = logging.getLogger(__name__)

_PATIENCE: Final = 5.0
_FIRST_LOOKS: Final = 0.1
_REFRESH: Final = 600.0  # half of that without a word, and the agent is asked anew
_Bundles = MappingProxyType[str, JWTBundle]
_NONE: Final[_Bundles] = MappingProxyType({})


class JWTBundleSource:
    """The JWT bundles that an agent gave last, by trust domain.

    ``load`` it, then let somebody run ``follow``. What is withdrawn is gone at once,
    since keys, unlike certificates, do not say when they end; an agent that is lost
    is believed for *max_age* seconds. ``refusals`` counts, by reason, what was seen
    and not taken.
    """

    def __init__(
        self, agent: Agent, first: _Bundles, clock: Clock, max_age: float
    ) -> None:
        self._agent = agent
        self._bundles = first
        self._clock = clock
        self._max_age = max_age
        self._heard = clock.monotonic()
        self._told: set[str] = set()
        self.refusals: Counter[str] = Counter()

    @classmethod
    async def load(
        cls,
        endpoint: str,
        *,
        clock: Clock = SYSTEM,
        wait: float = 30.0,
        max_age: float = 3600.0,
    ) -> Self:
        """Return a source that holds the first bundles.

        Args:
            endpoint: ``unix:///path``, where the agent is.
            clock: what tells the time.
            wait: seconds to wait for an agent that knows us.
            max_age: seconds for which an agent that is lost is believed.

        Raises:
            MaterialError: there is no usable bundle after *wait* seconds.
            ValueError: *endpoint* is no such address.
        """
        agent = Agent(
            endpoint, clock, method="FetchJWTBundles", kind="JWTBundlesResponse"
        )

        def find() -> _Bundles:
            found, faults = _said(agent, {})
            if not found:
                raise faults[0]
            return found

        pause = partial(agent.ear.listen, _FIRST_LOOKS)
        async with agent.asked(
            lambda _: None, patience=_PATIENCE, seconds_left=lambda: 0.0
        ):
            try:
                first = await awaited(find, pause, clock=clock, wait=wait)
            except MaterialError as error:
                fault = error  # raised below: a task group would wrap it
            else:
                return cls(agent, first, clock, max_age)
        raise fault

    def current(self) -> Mapping[str, JWTBundle]:
        """Return the bundles to judge by, by trust domain; there are no others."""
        age = self._clock.monotonic() - self._heard
        if self._agent.lost is not None and age > self._max_age:
            return _NONE
        return self._bundles

    async def follow(self) -> NoReturn:
        """Take each change until cancelled."""
        async with self._agent.asked(
            self._lose, patience=_PATIENCE, seconds_left=lambda: _REFRESH
        ):
            while True:
                self._look()
                await self._agent.ear.listen(_PATIENCE)

    def _look(self) -> None:
        if self._agent.lost is not None:
            return
        self._heard = self._clock.monotonic()
        found, faults = _said(self._agent, self._bundles)
        for fault in faults:
            if str(fault) not in self._told:
                self._count(fault, "JWT bundles kept")
        self._told = {str(fault) for fault in faults}
        if found != self._bundles:
            self._bundles = found
            shown = {name: found[name].fingerprint[:16] for name in sorted(found)}
            _log.info("JWT bundles loaded", extra={"bundles": shown})

    def _lose(self, error: MaterialError) -> None:
        if error.reason == "withdrawn":
            self._bundles = _NONE
            self._count(error, "JWT bundles dropped")
        else:
            self._count(error, "JWT bundles kept")

    def _count(self, error: MaterialError, event: str) -> None:
        self.refusals[error.reason] += 1
        fields = {"reason": error.reason, "detail": str(error)}
        _log.warning(event, extra=fields)


def _said(
    agent: Agent, held: Mapping[str, JWTBundle]
) -> tuple[_Bundles, Sequence[MaterialError]]:
    """Return what *agent* said last, and what of it is no use.

    Of a domain whose bundle is no use, and of all if nothing was said, the one that
    is *held* stays.
    """
    found: dict[str, JWTBundle] = {}
    faults: list[MaterialError] = []
    try:
        said = agent.answer().bundles
    except MaterialError as error:
        return MappingProxyType(dict(held)), [error]
    if not said:
        empty = MaterialError("bad_answer", "the agent's answer holds no JWT bundle")
        return MappingProxyType(dict(held)), [empty]
    for text, jwks in said.items():
        try:
            domain = domain_of(text)
        except MaterialError as error:
            faults.append(error)
            continue
        try:
            name = f"the JWT bundle of {domain}"
            found[domain] = JWTBundle.parse(domain, jwks, name=name)
        except MaterialError as error:
            faults.append(error)
            if domain in held:
                found[domain] = held[domain]
    return MappingProxyType(found), faults
