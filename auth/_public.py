"""The keys a verifier trusts: a public JWKS file, followed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from auth._errors import KeysError
from auth._files import read_jwks
from auth._jwk import PublicKey
from clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from clock import Clock

__all__ = ["KeySet", "PublicKeys"]

_FIRST_LOOKS = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeySet:
    """One state of the file; *generation* grows with each change."""

    keys: Mapping[str, PublicKey]
    generation: int

    @classmethod
    def load(cls, path: Path, generation: int = 1) -> Self:
        """Read *path*; blocks.

        Raises:
            KeysError: it is missing, malformed, holds no key, a key of a kind that
                we do not take, a private one, or one name twice.
        """
        try:
            return cls.parse(read_jwks(path, private=False), generation)
        except ValueError as error:
            raise KeysError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, jwks: Sequence[Mapping[str, Any]], generation: int = 1) -> Self:
        """Return the set of *jwks*, all or nothing.

        Raises:
            ValueError: there is none, or one of a kind that we do not take, or one
                name stands twice.
        """
        keys = [PublicKey.parse(jwk) for jwk in jwks]
        named = {key.kid: key for key in keys}
        if not keys or len(named) != len(keys):
            raise ValueError("no key in it, or a kid stands twice")
        return cls(named, generation)


class PublicKeys:
    """The current `KeySet` of a file; a bad state of the file is never used."""

    def __init__(self, path: Path, keys: KeySet, *, clock: Clock = SYSTEM) -> None:
        self._path, self._current, self._clock = path, keys, clock
        self.failures = 0

    @classmethod
    async def load(
        cls, path: Path, *, clock: Clock = SYSTEM, wait: float = 30.0
    ) -> Self:
        """Read *path*, waiting up to *wait* seconds for it to become good.

        Raises:
            KeysError: it did not.
        """
        end = clock.monotonic() + wait
        while True:
            try:
                keys = await asyncio.to_thread(KeySet.load, path)
            except KeysError:
                if clock.monotonic() >= end:
                    raise
            else:
                return cls(path, keys, clock=clock)
            await clock.sleep(_FIRST_LOOKS)

    def current(self) -> KeySet:
        """Return the last good state of the file."""
        return self._current

    async def follow(self, *, poll: float = 5.0) -> NoReturn:
        """Look at the file every *poll* seconds until cancelled.

        A bad state is logged and counted in ``failures``; the last good one stays.
        """
        while True:
            await self._clock.sleep(poll)
            next_generation = self._current.generation + 1
            try:
                fresh = await asyncio.to_thread(
                    KeySet.load, self._path, next_generation
                )
            except KeysError as error:
                self.failures += 1
                _log.warning("public keys kept", extra={"detail": str(error)})
            else:
                if fresh.keys != self._current.keys:
                    self._current = fresh
                    _log.info("public keys changed", extra={"kids": sorted(fresh.keys)})
