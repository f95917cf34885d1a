"""What is in a sandbox when its session begins: files, and secrets out of their way."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from picod._errors import FileError, InvalidRequestError
from picod._types import Mode, Open
from picod._view import SECRETS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from picod._work import Work

__all__ = ["Contents"]

_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,64}\Z")
_VARIABLE = "CUBEMESH_SECRETS"


@dataclass(frozen=True, slots=True)
class Contents:
    """Files as path and content, secrets by name; let go of once they are in place.

    Raises:
        InvalidRequestError: a secret cannot have this name.
    """

    files: Sequence[tuple[bytes, bytes]] = field(default=(), repr=False)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not all(map(_NAME.match, self.secrets)):
            raise InvalidRequestError("the name of a secret is malformed")

    @property
    def environment(self) -> Mapping[str, str]:
        """The variable that tells code where its secrets are, if there are any."""
        return {_VARIABLE: SECRETS} if self.secrets else {}

    async def put(self, work: Work) -> None:
        """Have *work* write all of it.

        Raises:
            FileError: one of it cannot be written; its text says which.
            RunnerFaultError: the sandbox is lost.
        """
        for path, content in self.files:
            opening = Open(path, Mode.CREATE, make_parents=True)
            await _write(work, opening, content)
        for name, value in self.secrets.items():
            opening = Open(name.encode(), Mode.CREATE, permissions=0o400, secret=True)
            await _write(work, opening, value)


async def _write(work: Work, opening: Open, content: bytes) -> None:
    try:
        async with work.write_file(opening) as upload:
            await upload.write(content)
            await upload.commit(len(content))
    except FileError as error:
        kind = "secret" if opening.secret else "file"
        raise type(error)(f"{kind} {os.fsdecode(opening.path)!r}: {error}") from error
