"""The files of an identity, read together as bytes; nothing is judged here."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from tlsloader._errors import MaterialError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Paths", "Snapshot", "Text", "read_foreign"]

_MAX_BYTES = 1 << 20  # a bundle of a hundred roots has about 100 KiB


@dataclass(frozen=True, slots=True)
class Paths:
    """The PEM files of one identity; key and chain may be the same file."""

    key: Path
    chain: Path
    bundle: Path


class Text(NamedTuple):
    """What one file held, and what to call it in an error."""

    name: str
    data: bytes
    exposed: bool = False  # whether users other than the owner can read it


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All files of one identity as they were at one look."""

    key: Text = field(repr=False)
    chain: Text
    bundle: Text
    foreign: Mapping[str, Text]

    @classmethod
    def read(
        cls, paths: Paths, foreign: Mapping[str, Path], *, complete: bool = False
    ) -> Self:
        """Read them all; blocks on file I/O.

        Unless all must be *complete*, a foreign file that is missing is a bundle
        that was withdrawn.

        Raises:
            MaterialError: a file is missing, unreadable or no ordinary file.
        """
        others = read_foreign(foreign, complete=complete)
        return cls(
            _required(paths.key),
            _required(paths.chain),
            _required(paths.bundle),
            others,
        )

    @property
    def digest(self) -> bytes:
        """A hash over the content of every file, to see whether any changed."""
        whole = hashlib.sha256()
        own = (self.key, self.chain, self.bundle)
        others = (
            Text(domain, self.foreign[domain].data) for domain in sorted(self.foreign)
        )
        for text in (*own, *others):
            whole.update(f"{text.name}\0{len(text.data)}\0".encode())
            whole.update(text.data)
        return whole.digest()


def read_foreign(
    files: Mapping[str, Path], *, complete: bool = False
) -> dict[str, Text]:
    """Read the bundles of other trust domains; as `Snapshot.read` does."""
    read = _required if complete else _read
    texts = {domain: read(path) for domain, path in files.items()}
    return {domain: text for domain, text in texts.items() if text}


def _required(path: Path) -> Text:
    text = _read(path)
    if text is None:
        remedy = "check the path, and that whoever writes it runs"
        raise MaterialError("file_missing", f"{path} does not exist; {remedy}")
    return text


def _read(path: Path) -> Text | None:
    """Return the content of *path*; a FIFO or a device must not hang or flood us."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            data = _drained(descriptor) if stat.S_ISREG(mode) else None
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        remedy = "let the user of this service read it"
        text = f"{path} cannot be read ({error.strerror}); {remedy}"
        raise MaterialError("file_unreadable", text) from error
    if data is None:
        raise MaterialError(
            "not_a_file", f"{path} is no ordinary file; name a PEM file"
        )
    if len(data) > _MAX_BYTES:
        text = f"{path} is larger than {_MAX_BYTES} bytes; name a PEM file"
        raise MaterialError("file_too_large", text)
    return Text(str(path), data, exposed=bool(mode & 0o077))


def _drained(descriptor: int) -> bytes:
    """Return what there is to read, but little more than is allowed."""
    data = bytearray()
    while len(data) <= _MAX_BYTES and (chunk := os.read(descriptor, 1 << 16)):
        data += chunk
    return bytes(data)
