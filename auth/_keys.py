"""The Routers' signing keys: made, published, used, retired, in this order.

A key signs only after its public half was published for twice the verifiers' poll
interval, and stays published until the last token it signed has expired. Both are
computed from the times of publication alone, so nothing else has to be remembered.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from auth._errors import KeysError
from auth._files import locked, read_jwks, write_jwks
from auth._jwk import PrivateKey
from clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from auth._jwk import Algorithm
    from clock import Clock

__all__ = ["MAX_LIFE", "SigningKeys"]

MAX_LIFE = 300
"""The longest life of a token, in seconds."""
_MARGIN = 60  # clocks differ, and files are looked at now and then

_log = logging.getLogger(__name__)


class SigningKeys:
    """The keys in a private JWKS file (0600) and its public twin.

    Several Routers of one host may share the files. *poll* is how often, in
    seconds, the slowest verifier looks at the public file.
    """

    def __init__(
        self, private: Path, public: Path, *, poll: float, clock: Clock
    ) -> None:
        self._private, self._public = private, public
        self._poll, self._clock = poll, clock
        self._keys: tuple[PrivateKey, ...] = ()
        self.failures = 0

    @classmethod
    async def load(  # noqa: PLR0913 - each with a default that suits
        cls,
        private: Path,
        public: Path,
        *,
        create: bool = False,
        algorithm: Algorithm = "ES256",
        poll: float = 5.0,
        clock: Clock = SYSTEM,
    ) -> Self:
        """Read the keys, publish their public halves, and return them.

        With *create* a missing private file is made, with one key. If nothing had
        been published before, no verifier can hold an older set, and that first
        key signs at once.

        Raises:
            KeysError: a file cannot be read, understood or written.
        """
        keys = cls(private, public, poll=poll, clock=clock)
        await asyncio.to_thread(keys._start, create=create, algorithm=algorithm)
        return keys

    @property
    def signing(self) -> PrivateKey:
        """The newest key that verifiers are sure to know.

        Raises:
            KeysError: none was published for long enough yet.
        """
        now = self._clock.now().timestamp()
        known = [key for key in self._keys if key.published + 2 * self._poll <= now]
        if not known:
            raise KeysError(f"{self._private}: no key was published long enough ago")
        return known[-1]

    @property
    def kids(self) -> frozenset[str]:
        """The names of all keys that are published."""
        return frozenset(key.kid for key in self._keys)

    async def ready(self) -> None:
        """Return once a key may sign: at once, except after the files were lost."""
        while self._first_signature() > self._clock.now().timestamp():
            await self._clock.sleep(self._poll / 5)

    def _first_signature(self) -> float:
        return min(key.published for key in self._keys) + 2 * self._poll

    async def rotate(
        self, *, every: float | None = None, algorithm: Algorithm = "ES256"
    ) -> NoReturn:
        """Look at the files each poll interval, until cancelled; make keys anew.

        *every*: seconds between two new keys, at least four poll intervals;
        ``None``: somebody else changes the private file. A failure is logged and
        counted in ``failures``; the keys in hand stay in use.

        Raises:
            ValueError: *every* is too short.
        """
        if every is not None and every < 4 * self._poll:
            raise ValueError(f"keys cannot rotate faster than {4 * self._poll:g} s")
        while True:
            await self._clock.sleep(self._poll)
            try:
                await asyncio.to_thread(self._turn, every, algorithm)
            except KeysError as error:
                self.failures += 1
                _log.warning("signing keys kept", extra={"detail": str(error)})

    def _start(self, *, create: bool, algorithm: Algorithm) -> None:
        with locked(self._private):
            if create and not self._private.exists():
                # Published in year 0, so to say: nobody waits for the first one.
                published = self._now() if self._public.exists() else 0
                self._store((PrivateKey.generate(algorithm, published),))
            self._keys = self._dated(self._read())
            self._publish(self._keys)

    def _dated(self, keys: tuple[PrivateKey, ...]) -> tuple[PrivateKey, ...]:
        """Count the wait anew for keys that verifiers were never shown."""
        try:
            shown = {jwk.get("kid") for jwk in read_jwks(self._public, private=False)}
        except KeysError:
            return keys  # nothing that a verifier could have loaded
        if all(key.kid in shown for key in keys):
            return keys
        now = self._now()
        dated = tuple(k if k.kid in shown else _published(k, now) for k in keys)
        self._publish(dated)
        self._store(dated)
        return dated

    def _turn(self, every: float | None, algorithm: Algorithm) -> None:
        with locked(self._private):
            keys = self._read()
            if every is not None:
                keys = self._renewed(keys, every, algorithm)
            self._publish(keys)
            self._keys = keys

    def _renewed(
        self, keys: tuple[PrivateKey, ...], every: float, algorithm: Algorithm
    ) -> tuple[PrivateKey, ...]:
        now = self._now()
        kept = self._unretired(keys, now)
        newest = kept[-1].published
        if newest == 0:  # the first one's age is unknown: count from now on
            kept = (*kept[:-1], _published(kept[-1], now - int(2 * self._poll)))
        elif newest + every <= now:
            kept = (*kept, PrivateKey.generate(algorithm, now))
        if kept != keys:
            self._publish(kept)
            self._store(kept)
            _log.info("signing keys renewed", extra={"kids": [k.kid for k in kept]})
        return kept

    def _unretired(
        self, keys: tuple[PrivateKey, ...], now: int
    ) -> tuple[PrivateKey, ...]:
        """Return *keys* without those whose last token has expired."""
        grace = 2 * self._poll + MAX_LIFE + _MARGIN
        successors = keys[1:]
        old = [
            k
            for k, after in zip(keys, successors, strict=False)
            if after.published + grace <= now
        ]
        return tuple(key for key in keys if key not in old)

    def _read(self) -> tuple[PrivateKey, ...]:
        found = []
        for jwk in read_jwks(self._private, private=True):
            try:
                found.append(PrivateKey.parse(jwk))
            except ValueError as error:
                raise KeysError(f"{self._private}: {error}") from None
        if not found or len({key.kid for key in found}) != len(found):
            raise KeysError(f"{self._private}: no key in it, or a kid stands twice")
        return tuple(sorted(found, key=lambda key: key.published))

    def _publish(self, keys: Sequence[PrivateKey]) -> None:
        """Write the public halves, unless they stand there already."""
        wanted = [key.public.dump() for key in keys]
        try:
            if list(read_jwks(self._public, private=False)) == wanted:
                return
        except KeysError:
            pass  # missing or damaged: written anew
        write_jwks(self._public, wanted, mode=0o644)

    def _store(self, keys: Sequence[PrivateKey]) -> None:
        write_jwks(self._private, [key.dump() for key in keys], mode=0o600)

    def _now(self) -> int:
        return int(self._clock.now().timestamp())


def _published(key: PrivateKey, at: int) -> PrivateKey:
    return PrivateKey(key.kid, key.algorithm, key.key, at)
