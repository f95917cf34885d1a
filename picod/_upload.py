"""A file on its way into the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from picod import _messages as messages
from picod._values import pack

if TYPE_CHECKING:
    from picod._streams import Stream
    from picod._types import FileInfo

__all__ = ["Upload"]


class Upload:
    """A file on its way; nothing of it counts before `commit`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def write(self, data: bytes) -> None:
        """Send *data*, waiting while the sandbox lags behind.

        Raises:
            FileError: it cannot be written.

        """
        await self._stream.send(data)

    async def commit(self, size: int) -> FileInfo:
        """Finish; *size* is how many bytes were written in all.

        Raises:
            FileError: it cannot be finished.

        """
        self._stream.end(pack({b"size": size}))
        _, payload = await self._stream.next()
        await self._stream.next()
        return messages.info(payload)
