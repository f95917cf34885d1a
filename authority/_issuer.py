"""Who gives identities to others, one each, and takes them back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from authority._errors import AuthorityError
from authority._succession import Succession
from clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509

    from authority._authority import Authority, Issued
    from authority._cafiles import CATexts
    from clock import Clock
    from tlsloader import SpiffeID

__all__ = ["CAIssuer", "Issuer"]

_log = logging.getLogger(__name__)

_LEAD: Final = timedelta(seconds=10)  # twice the seconds between two looks at files
_LOOK: Final = 5.0


class Issuer(Protocol):
    """Gives each workload of one trust domain its identity, again and again.

    Used from the event loop only.
    """

    trust_domain: str

    @property
    def faults(self) -> Counter[str]:
        """How often something went wrong, by reason, one stable word each."""

    @property
    def ready(self) -> int | None:
        """How many identities can be given at once; ``None``: any number."""

    @property
    def bundle(self) -> bytes:
        """All roots by which the identities are to be verified now, as PEM."""

    def subscribe(self, changed: Callable[[SpiffeID | None], None]) -> None:
        """Have *changed* called when there is a newer identity than it was given.

        ``None`` stands for all of them: the bundle, or who signs, has changed.
        """

    def reserve(self) -> SpiffeID:
        """Return an identity that nobody had or will have, given soonest of all."""

    def adopt(self, identity: SpiffeID) -> None:
        """Go on giving *identity*, which an earlier process gave; before `run`."""

    async def issue(self, identity: SpiffeID) -> Issued:
        """Return the newest of what *identity* can be proven by.

        Raises:
            AuthorityError: there is nothing now; its reason is one stable word.
        """

    def revoke(self, identity: SpiffeID) -> None:
        """Give *identity* to nobody any more; unknown ones are fine."""

    async def run(self) -> NoReturn:
        """Keep all this up, until cancelled."""


class CAIssuer:
    """Signs with an authority that we hold; one read from *texts* is followed.

    A new authority is published before it signs, an old one for as long as its
    identities live. What was *published* by an earlier process counts, too.
    """

    def __init__(  # noqa: PLR0913 -- as many as an issuer has to know
        self,
        authority: Authority,
        *,
        names: Callable[[], SpiffeID],
        life: timedelta,
        published: Sequence[x509.Certificate] = (),
        texts: CATexts | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.trust_domain = authority.trust_domain
        self.faults: Counter[str] = Counter()
        self.ready = None
        self._names, self._life, self._clock = names, life, clock
        self._succession = Succession(
            authority, published=published, lead=_LEAD, life=life, now=clock.now()
        )
        self._texts = texts
        self._fault = ""
        self._told = self._state()
        self._listeners: list[Callable[[SpiffeID | None], None]] = []

    @property
    def bundle(self) -> bytes:
        """See `Issuer`."""
        return self._succession.bundle(self._clock.now())

    def subscribe(self, changed: Callable[[SpiffeID | None], None]) -> None:
        """See `Issuer`."""
        self._listeners.append(changed)

    def reserve(self) -> SpiffeID:
        """See `Issuer`; one is as good as another."""
        return self._names()

    def adopt(self, identity: SpiffeID) -> None:
        """See `Issuer`; one is as good as another."""

    async def issue(self, identity: SpiffeID) -> Issued:
        """See `Issuer`; signs anew each time, in a thread of its own."""
        while (signer := self._succession.signer(now := self._clock.now())) is None:
            wait = self._succession.wait(now) or timedelta()
            await self._clock.sleep(wait.total_seconds())
        return await asyncio.to_thread(signer.issue, identity, life=self._life, now=now)

    def revoke(self, identity: SpiffeID) -> None:
        """See `Issuer`; nothing is kept of those who got theirs."""

    async def run(self) -> NoReturn:
        """See `Issuer`; looks at the files, and does what time brings."""
        while True:
            if self._texts is not None:
                await self._look(self._texts)
            if self._told != (state := self._state()):
                self._told = state
                for listener in self._listeners:
                    listener(None)
            await self._clock.sleep(_LOOK)

    async def _look(self, known: CATexts) -> None:
        try:
            texts = await asyncio.to_thread(known.files.read)
            if texts == known:
                self._fault = ""
                return
            authority = await asyncio.to_thread(
                texts.authority, self.trust_domain, now=self._clock.now()
            )
        except AuthorityError as error:
            self._keep(error)
            return
        self._fault = ""
        self._texts = texts
        self._succession.follow(authority, self._clock.now())
        _log.info("authority changes", extra={"not_after": str(authority.not_after)})

    def _keep(self, error: AuthorityError) -> None:
        """Go on signing as before, in spite of *error*; say so once."""
        if str(error) != self._fault:
            self._fault = str(error)
            self.faults[error.reason] += 1
            fields = {"reason": error.reason, "detail": str(error), "hint": error.hint}
            _log.warning("authority kept", extra=fields)

    def _state(self) -> tuple[bytes, Authority | None]:
        now = self._clock.now()
        return self._succession.bundle(now), self._succession.signer(now)
