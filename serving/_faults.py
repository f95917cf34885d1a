"""What ends a service before or while it runs, in words an operator can act on.

FatalError            the service cannot go on; text, hint, exit status
├── ListenError       an address cannot be listened on
└── SettingsError     the configuration holds faults; all of them
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "EX_CONFIG",
    "EX_SOFTWARE",
    "EX_UNAVAILABLE",
    "FatalError",
    "Fault",
    "ListenError",
    "SettingsError",
    "print_faults",
]

EX_UNAVAILABLE = 69
"""Something outside is missing. Source: sysexits.h."""
EX_SOFTWARE = 70
"""A bug of ours. Source: sysexits.h."""
EX_CONFIG = 78
"""The configuration cannot be used. Source: sysexits.h."""

Fault = tuple[str, str]
"""What is wrong, and what to do about it (may be empty)."""


class FatalError(Exception):
    """The service cannot go on; *hint* says what to do, *status* how it exits.

    Any room may raise it at start; `run` prints it without a traceback.
    """

    def __init__(self, text: str, hint: str = "", *, status: int = EX_CONFIG) -> None:
        super().__init__(text)
        self.hint, self.status = hint, status

    @property
    def faults(self) -> Sequence[Fault]:
        """All that is wrong, in the order it was found."""
        return ((str(self), self.hint),)


class ListenError(FatalError):
    """Nobody can listen on *address*; *cause* is the system's word for why."""

    def __init__(self, address: str, cause: Exception | None = None) -> None:
        number = _errno(cause)
        why = os.strerror(number).lower() if number else "the address cannot be bound"
        super().__init__(
            f"cannot listen on {address}: {why}",
            _HINTS.get(number, "is another process listening there already?"),
            status=EX_UNAVAILABLE,
        )
        self.address = address


def _errno(error: BaseException | None) -> int | None:
    """Return the system's number of the fault behind *error*, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__
    return None


_HINTS: dict[int | None, str] = {
    errno.EADDRINUSE: "another process listens there: stop it or take port 0",
    errno.EACCES: "ports below 1024 and foreign folders need more rights: "
    "take another address",
    errno.EADDRNOTAVAIL: "no network interface of this host has that address",
    errno.ENOENT: "make the folder of the socket first",
}


class SettingsError(FatalError):
    """The configuration cannot be used; ``faults`` names every reason."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        super().__init__("; ".join(text for text, _ in self._faults))

    @property
    def faults(self) -> Sequence[Fault]:
        """All that is wrong, in the order it was found."""
        return self._faults


def print_faults(faults: Iterable[Fault], stream: TextIO) -> None:
    """Write each fault as an ``error:`` line and, if there is one, a ``hint:``."""
    for text, hint in faults:
        print(f"error: {text}", file=stream)
        if hint:
            print(f"hint: {hint}", file=stream)
    stream.flush()
