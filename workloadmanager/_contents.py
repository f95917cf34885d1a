"""Files and secrets that a sandbox gets with its session, if it can have them."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workloadmanager._errors import (
    BindingTooLargeError,
    InvalidPathError,
    InvalidRequestError,
    PathOutsideWorkspaceError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Contents", "check", "place"]

_MOST_FILES, _MOST_BYTES = 256, 2 << 20
_MOST_SECRETS, _MOST_SECRET_BYTES = 64, 256 << 10
_SECRET = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,64}\Z")
_LONGEST_PATH, _LONGEST_NAME = 4096, 255
_ROOTS = (b"workspace", b"tmp")


@dataclass(frozen=True, slots=True)
class Contents:
    """Files as path and content, secrets by name; kept nowhere, and in no text."""

    files: Sequence[tuple[bytes, bytes]] = field(default=(), repr=False)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.files or self.secrets)


def check(contents: Contents) -> None:
    """See that a sandbox can have these.

    Raises:
        InvalidRequestError: it cannot, or not by one message.
    """
    _bound("files", contents.files, _MOST_FILES, _MOST_BYTES)
    _bound("secrets", contents.secrets.items(), _MOST_SECRETS, _MOST_SECRET_BYTES)
    if not all(map(_SECRET.match, contents.secrets)):
        raise InvalidRequestError(
            "secrets", "a name has 1 to 64 of A-Z, a-z, 0-9, _, . and -"
        )
    places = sorted(place(path) for path, _ in contents.files)
    for one, other in itertools.pairwise(places):
        if other[: len(one)] == one:
            raise InvalidPathError(
                b"/".join(other), "is there twice, or beneath a file"
            )


def place(path: bytes) -> tuple[bytes, ...]:
    """Return the names, from `/` on, that lead to the file *path*.

    It is what PicoD's runner will find in a workspace that holds no symlink.

    Raises:
        InvalidPathError: no new file can have this path.
        PathOutsideWorkspaceError: it leads to where there are no files of callers.
    """
    if not 0 < len(path) <= _LONGEST_PATH or b"\0" in path:
        raise InvalidPathError(path, "must have 1 to 4,096 bytes without NUL")
    here = [] if path.startswith(b"/") else [_ROOTS[0]]
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            del here[-1:]
            continue
        here.append(part)
        if here[0] not in _ROOTS:
            raise PathOutsideWorkspaceError(path)
        if len(part) > _LONGEST_NAME:
            raise InvalidPathError(path, "has a name of more than 255 bytes")
    if not here:
        raise PathOutsideWorkspaceError(path)
    if len(here) == 1 or parts[-1] == b"..":
        raise InvalidPathError(path, "names a directory")
    return tuple(here)


def _bound(
    field: str, items: Iterable[tuple[bytes | str, bytes]], most: int, size: int
) -> None:
    sizes = [len(name) + len(content) for name, content in items]
    if len(sizes) > most:
        raise BindingTooLargeError(field, f"at most {most} can be given")
    if sum(sizes) > size:
        raise BindingTooLargeError(field, f"at most {size >> 10} KiB can be given")
