"""An allowlist in a file, followed while it changes.

One rule a line, in the forms of `tlsloader._matchers`; ``#`` begins a comment. A file
without a rule admits nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, NoReturn, Self

from clock import SYSTEM
from tlsloader._ear import Ear
from tlsloader._errors import AllowlistError, InvalidMatcherError, MaterialError
from tlsloader._files import looked
from tlsloader._matchers import Allowlist, Matcher, parse_matcher
from tlsloader._subscribers import Subscribers
from tlsloader._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clock import Clock

__all__ = ["AllowlistFile", "read_allowlist"]

_log = logging.getLogger(__name__)


class AllowlistFile:
    """The newest good allowlist found in a file.

    ``load`` it, then let somebody run ``follow``. A file that is bad in one line is
    not used at all: the last good list stays. ``refusals`` counts, by reason, the bad
    states that were seen; each is logged once.
    """

    def __init__(
        self, path: Path, first: tuple[bytes, Allowlist], clock: Clock
    ) -> None:
        self._path = path
        self._data, self._allow = first
        self._clock = clock
        self._fault = ""
        self._subscribers: Subscribers[Allowlist] = Subscribers()
        self._watch: Watch | None = None
        self.refusals: Counter[str] = Counter()
        self._tell()

    @classmethod
    async def load(cls, path: Path, *, clock: Clock = SYSTEM) -> Self:
        """Return the list that *path* holds now.

        Raises:
            AllowlistError: the file is missing or malformed.
        """
        return cls(path, await asyncio.to_thread(_read, path), clock)

    def current(self) -> Allowlist:
        """Return the newest good list."""
        return self._allow

    def subscribe(self, callback: Callable[[Allowlist], None]) -> Callable[[], None]:
        """Have *callback* called, on the event loop, with each new list.

        Returns:
            A function that ends the subscription; calling it again is harmless.
        """
        return self._subscribers.add(callback)

    async def follow(self, *, poll: float = 0.5, watch: bool = True) -> NoReturn:
        """Take each good change of the file until cancelled.

        A change is heard by inotify within milliseconds; every *poll* seconds the
        content is compared all the same, for file systems that tell nothing.
        """
        ear = Ear(self._clock)
        with Watch([self._path], ear.hear) as watching:
            self._watch = watching if watch else None
            while True:
                await self._look()
                await ear.listen(poll)

    async def _look(self) -> None:
        try:
            data, allow = await asyncio.to_thread(self._find)
        except AllowlistError as error:
            self._keep(error)
            return
        self._fault = ""
        self._data, before = data, self._data
        if data != before and allow != self._allow:
            self._allow = allow
            self._tell()
            for callback in self._subscribers:
                callback(allow)

    def _find(self) -> tuple[bytes, Allowlist]:
        if self._watch is not None:
            self._watch.arm()  # first, so that no change falls in between
        return _read(self._path)

    def _keep(self, error: AllowlistError) -> None:
        """Go on with what we have, in spite of *error*."""
        if str(error) == self._fault:
            return
        self._fault = str(error)
        self.refusals[error.reason] += 1
        fields = {"reason": error.reason, "line": error.line, "detail": str(error)}
        _log.error("allowlist kept", extra=fields)

    def _tell(self) -> None:
        rules = len(self._allow.matchers)
        _log.info("allowlist loaded", extra={"file": str(self._path), "rules": rules})


def read_allowlist(path: Path) -> Allowlist:
    """Return the list that the file *path* holds; blocks on file I/O.

    Raises:
        AllowlistError: the file is missing or malformed.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[bytes, Allowlist]:
    try:
        data = looked(lambda look: look.required(path)).data
    except MaterialError as error:
        raise AllowlistError(error.reason, str(error)) from error
    lines = enumerate(data.split(b"\n"), 1)
    rules = [_parsed(line, number, path) for number, line in lines]
    return data, Allowlist(tuple(rule for rule in rules if rule is not None))


def _parsed(line: bytes, number: int, path: Path) -> Matcher | None:
    try:
        text = line.decode().partition("#")[0].strip()
        return parse_matcher(text) if text else None
    except (UnicodeDecodeError, InvalidMatcherError) as error:
        text = f"{path}, line {number}: {error}"
        raise AllowlistError("malformed_line", text, line=number) from error
