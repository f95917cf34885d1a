"""Files as bytes, each read once, from folders that stay what they were; no judging."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from tlsloader._errors import MaterialError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Look", "Text", "looked"]

_MAX_BYTES: Final = 1 << 20  # a bundle of a hundred roots has about 100 KiB
_TRIES: Final = 5
_PLACE: Final = os.O_PATH  # opens nothing: no device or FIFO notices
_VOLUME: Final = "..data"
_REMEDIES: Final = {
    errno.ELOOP: "mend the link, which leads to itself",
    errno.EMFILE: "raise the limit of open files of this service",
    errno.ENFILE: "raise the limit of open files of this machine",
}
_T = TypeVar("_T")


class Text(NamedTuple):
    """What one file held, and what to call it in an error."""

    name: str
    data: bytes
    exposed: bool = False  # whether users other than the owner can read it


class _Folder(NamedTuple):
    """A folder that is held open, and where it was found."""

    name: Path | str
    within: int | None
    descriptor: int


class Look:
    """One look at some files, of which each folder is opened once.

    A folder that is replaced meanwhile goes on being read as it was. In a volume of
    Kubernetes (``name → ..data/name``, ``..data → ..<stamp>``) that holds for the
    folder behind ``..data``, too: all its files are of one generation.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, _Folder] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._folders.values():
            os.close(folder.descriptor)

    @property
    def unmoved(self) -> bool:
        """Whether every folder is still where it was found."""
        return all(map(_is_there, self._folders.values()))

    def read(self, path: Path) -> Text | None:
        """Return the content of *path*, ``None`` if there is no such file.

        Raises:
            MaterialError: it is unreadable, too large or no ordinary file.
        """
        try:
            place = self._place(path)
            try:
                return _content(path, place)
            finally:
                os.close(place)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error

    def required(self, path: Path) -> Text:
        """Return the content of *path*.

        Raises:
            MaterialError: as `read`, and if there is no such file.
        """
        text = self.read(path)
        if text is None:
            remedy = "check the path, and that whoever writes it runs"
            raise MaterialError("file_missing", f"{path} does not exist; {remedy}")
        return text

    def names(self, folder: Path) -> list[str]:
        """Return the names in *folder*, in order, but for hidden ones.

        Raises:
            MaterialError: it does not exist, is no folder, or cannot be listed.
        """
        try:
            held = self._folder(folder)
            listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=held)
            try:
                names = os.listdir(listed)  # noqa: PTH208 -- of a descriptor
            finally:
                os.close(listed)
        except FileNotFoundError:
            remedy = "check the path, and that its volume is mounted"
            text = f"the folder {folder} does not exist; {remedy}"
            raise MaterialError("folder_missing", text) from None
        except OSError as error:
            raise _unreadable(folder, error) from error
        return sorted(name for name in names if not name.startswith("."))

    def _place(self, path: Path) -> int:
        """Return a descriptor that stands for *path* but reads nothing."""
        folder, name = self._folder(path.parent), path.name
        with suppress(OSError):  # no link, or nothing
            target = os.readlink(name, dir_fd=folder)
            if target.startswith(f"{_VOLUME}/"):
                name = target.removeprefix(f"{_VOLUME}/")
                folder = self._folder(path.parent / _VOLUME, _VOLUME, folder)
        return os.open(name, _PLACE, dir_fd=folder)

    def _folder(
        self, path: Path, name: Path | str | None = None, within: int | None = None
    ) -> int:
        if path not in self._folders:
            name = path if name is None else name
            descriptor = os.open(name, _PLACE | os.O_DIRECTORY, dir_fd=within)
            self._folders[path] = _Folder(name, within, descriptor)
        return self._folders[path].descriptor


def looked(read: Callable[[Look], _T]) -> _T:
    """Return what *read* finds in a look during which no folder was replaced.

    Raises:
        MaterialError: *read* raises it, or the folders never keep still.
    """
    for _ in range(_TRIES):
        with Look() as look:
            try:
                found = read(look)
            except MaterialError:
                if look.unmoved:
                    raise
            else:
                if look.unmoved:
                    return found
    text = "the folders of these files are replaced while they are read; write less"
    raise MaterialError("files_moving", text)


def _is_there(folder: _Folder) -> bool:
    try:
        now = os.stat(folder.name, dir_fd=folder.within)
    except OSError:
        return False
    return os.path.samestat(now, os.fstat(folder.descriptor))


def _content(path: Path, place: int) -> Text:
    found = os.fstat(place)
    if not stat.S_ISREG(found.st_mode):
        text = f"{path} is no ordinary file; name a PEM file"
        raise MaterialError("not_a_file", text)
    descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY)
    try:
        data = _drained(descriptor)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_BYTES:
        text = f"{path} is larger than {_MAX_BYTES} bytes; name a PEM file"
        raise MaterialError("file_too_large", text)
    return Text(str(path), data, exposed=bool(found.st_mode & 0o077))


def _drained(descriptor: int) -> bytes:
    """Return what there is to read, but little more than is allowed."""
    data = bytearray()
    while len(data) <= _MAX_BYTES and (chunk := os.read(descriptor, 1 << 16)):
        data += chunk
    return bytes(data)


def _unreadable(path: Path, error: OSError) -> MaterialError:
    remedy = _REMEDIES.get(error.errno or 0, "let the user of this service read it")
    text = f"{path} cannot be read ({error.strerror}); {remedy}"
    return MaterialError("file_unreadable", text)
