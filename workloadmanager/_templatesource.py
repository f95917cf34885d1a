"""The template file, read at the start and followed for changes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self

from clock import SYSTEM, Clock
from workloadmanager._errors import TemplateFileError
from workloadmanager._templatefile import parse_templates
from workloadmanager._templates import Templates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    Lacking = Callable[[Templates], Iterable[tuple[str, str]]]

__all__ = ["TemplateSource"]

_LARGEST: Final = 1 << 20

_log = logging.getLogger(__name__)


class TemplateSource:
    """The built-in template and those of the file at *path*, if there is one."""

    def __init__(self, path: Path | None, text: bytes, templates: Templates) -> None:
        self.templates = templates
        self._path, self._text, self._fault = path, text, ""

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Return what there is now.

        Raises:
            TemplateFileError: the file cannot be read, or has faults.
        """
        if path is None:
            return cls(None, b"", Templates())
        text = _read(path)
        return cls(path, text, parse_templates(text, str(path)))

    async def follow(
        self,
        lacking: Lacking = lambda _: (),
        *,
        clock: Clock = SYSTEM,
        every: float = 5.0,
    ) -> None:
        """Keep ``templates`` as the file says, until cancelled.

        A file that is missing, has faults, or asks for what *lacking* tells, changes
        nothing; that is logged, once.
        """
        while self._path is not None:
            await clock.sleep(every)
            try:
                await self._look(self._path, lacking)
                self._fault = ""
            except TemplateFileError as error:
                if str(error) != self._fault:
                    _log.warning("templates kept", extra={"faults": error.faults})
                self._fault = str(error)

    async def _look(self, path: Path, lacking: Lacking) -> None:
        text = await asyncio.to_thread(_read, path)
        if text != self._text:
            templates = parse_templates(text, str(path))
            if faults := [fault for fault, _ in lacking(templates)]:
                raise TemplateFileError(faults)
            self.templates.become(templates)
            self._text = text
            names = [each.name for each in self.templates]
            _log.info("templates changed", extra={"templates": names})


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise TemplateFileError([f"{path}: {error.strerror}"]) from error
    if len(text) > _LARGEST:
        raise TemplateFileError([f"{path}: larger than {_LARGEST} bytes"])
    return text
