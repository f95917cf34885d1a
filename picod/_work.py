"""What the servicer asks of whoever does the work inside the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from contextlib import AbstractAsyncContextManager

    from picod._code import (
        Code,
        CodeFinished,
        CodeStarted,
        ContextInfo,
        Contexts,
        Fault,
        NewContext,
        Result,
    )
    from picod._types import Command, Exited, FileInfo, Open, Output, Started

__all__ = ["CodeWork", "Upload", "Work"]


class Upload(Protocol):
    """A file that is being written; it is discarded unless committed."""

    async def write(self, data: bytes) -> None:
        """Take *data*; wait while the sandbox cannot keep up."""

    async def commit(self, size: int) -> FileInfo:
        """Finish the file, if *size* bytes were written, and tell about it."""


class CodeWork(Protocol):
    """Code and contexts of one sandbox; errors are those of `picod._errors`."""

    def run(
        self, code: Code
    ) -> AsyncGenerator[
        Sequence[CodeStarted | Output | Result | Fault | CodeFinished], None
    ]:
        """Run *code* and yield what it does, as it comes; closing interrupts it."""

    async def create(self, new: NewContext) -> ContextInfo:
        """Make a context."""

    async def list(self) -> Contexts:
        """Tell of all contexts, and of what was imported ahead."""

    async def restart(self, name: str) -> ContextInfo:
        """Give a context a new interpreter."""

    async def delete(self, name: str) -> None:
        """End a context."""


class Work(Protocol):
    """What one sandbox can do; errors are those of `picod._errors`."""

    @property
    def code(self) -> CodeWork:
        """Its code and contexts."""

    def execute(
        self, command: Command
    ) -> AsyncGenerator[Sequence[Started | Output | Exited], None]:
        """Run *command*, yield what it does, as it comes; closing kills its tree."""

    def read_file(
        self, path: bytes, offset: int, length: int
    ) -> AsyncGenerator[FileInfo | bytes, None]:
        """Yield what the file is, then *length* bytes (0: all) from *offset* on."""

    def write_file(self, opening: Open) -> AbstractAsyncContextManager[Upload]:
        """Open a file to write; leaving without a commit discards."""

    async def stat(self, path: bytes) -> FileInfo:
        """Tell about *path* itself, also if it is a symlink."""

    def list_directory(self, path: bytes) -> AsyncGenerator[Sequence[FileInfo], None]:
        """Yield the entries, sorted by name, in batches of at most 1,000."""

    async def make_directory(
        self, path: bytes, *, make_parents: bool = False, permissions: int = 0
    ) -> FileInfo:
        """Make a directory and tell about it."""

    async def move(
        self, source: bytes, target: bytes, *, replace: bool = False
    ) -> FileInfo:
        """Rename *source* to *target* and tell about it."""

    async def remove(self, path: bytes, *, recursive: bool = False) -> None:
        """Delete a file, or a directory; *recursive* with all that is in it."""

    async def incident(self) -> str:
        """Tell what the limits last did to the code: a reason, or nothing."""
