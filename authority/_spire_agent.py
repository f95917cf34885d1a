"""What a SPIRE agent tells its delegate, heard for as long as somebody listens."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NoReturn

from authority._errors import AuthorityError
from authority._spire_wire import bundle_from_wire, svid_from_wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from authority._authority import Issued
    from authority._spire_calls import Calls
    from authority._spire_faults import Faults
    from clock import Clock
    from tlsloader import SpiffeID

__all__ = ["Agent", "Pauses"]

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.25
_ANSWER: Final = 10.0  # seconds


class Agent:
    """The conversations with one agent, each begun anew whenever it ends.

    What is wrong goes into *faults*. The bundle is what tells whether the agent is
    there at all: only meanwhile is it asked for anything else.
    """

    def __init__(
        self, calls: Calls, trust_domain: str, faults: Faults, clock: Clock
    ) -> None:
        self._calls, self._trust_domain = calls, trust_domain
        self._faults, self._clock = faults, clock
        self._there = asyncio.Event()

    async def first_bundle(self, wait: float) -> bytes:
        """Return the roots of the trust domain, as PEM.

        Raises:
            AuthorityError: the agent does not tell them within *wait* seconds.
        """
        deadline = self._clock.monotonic() + wait
        while True:
            try:
                return await self._bundle()
            except AuthorityError as error:
                if self._clock.monotonic() >= deadline:
                    raise
                self._faults.note(error)
            await self._clock.sleep(_LONGEST_PAUSE)

    async def follow_bundle(self, heard: Callable[[bytes], None]) -> NoReturn:
        """Have *heard* called with the roots, now and at each change."""

        def take(said: Any) -> None:
            bundle = bundle_from_wire(said, self._trust_domain)
            self._faults.clear("agent")
            self._there.set()
            heard(bundle)

        pauses = Pauses(self._clock)
        while True:
            await self._listen(self._calls.bundles(), take, pauses)
            self._there.clear()
            await pauses.rest()

    async def follow(
        self, identity: SpiffeID, heard: Callable[[Issued | None], None]
    ) -> NoReturn:
        """Have *heard* called with each SVID of *identity*; with ``None``: none."""

        def take(said: Any) -> None:
            heard(svid_from_wire(said, identity))

        pauses = Pauses(self._clock)
        while True:
            await self._there.wait()
            await self._listen(self._calls.svids(identity), take, pauses)
            await pauses.rest()

    async def _bundle(self) -> bytes:
        """Ask for the roots once."""
        try:
            async with (
                asyncio.timeout(_ANSWER),
                aclosing(self._calls.bundles()) as stream,
            ):
                return bundle_from_wire(await anext(stream), self._trust_domain)
        except TimeoutError:
            text = f"the SPIRE agent has said nothing for {_ANSWER:g} s"
            hint = "see that it runs, and its log"
            raise AuthorityError("agent_unavailable", text, hint=hint) from None

    async def _listen(
        self,
        stream: AsyncGenerator[Any, None],
        heard: Callable[[Any], None],
        pauses: Pauses,
    ) -> None:
        """Have *heard* called with all that *stream* says, until it ends."""
        try:
            async with aclosing(stream):
                async for said in stream:
                    heard(said)
                    pauses.reset()
        except AuthorityError as error:
            self._faults.note(error)


class Pauses:
    """The waiting before another attempt: longer each time, and never long."""

    def __init__(self, clock: Clock, longest: float = _LONGEST_PAUSE) -> None:
        self._clock, self._longest = clock, longest
        self._next = _FIRST_PAUSE

    def reset(self) -> None:
        """Wait but a moment the next time: all was well."""
        self._next = _FIRST_PAUSE

    async def rest(self) -> None:
        """Wait until another attempt may be made."""
        await self._clock.sleep(self._next)
        self._next = min(2 * self._next, self._longest)
