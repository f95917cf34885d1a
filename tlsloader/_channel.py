"""gRPC channels that fail in a forked child, where they would wait for ever."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import grpc.aio

from tlsloader._errors import ForkedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["opened"]


def opened(target: str, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
    """Open a channel to *target* that only this process can use.

    Raises:
        ForkedError: gRPC was used before this process was forked: its threads are
            gone, so that no call would ever end.
    """
    _USER.check("gRPC")
    return _OwnChannel(grpc.aio.insecure_channel(target, options=options))


class _Owner:
    """The process that may use something."""

    __slots__ = ("_pid",)

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid

    @property
    def is_us(self) -> bool:
        """Whether this process is the owner."""
        return self._pid == os.getpid()

    def check(self, what: str) -> None:
        """Let the first process that comes be the owner, and nobody else."""
        pid = os.getpid()
        if self._pid is None:
            self._pid = pid
        elif self._pid != pid:
            raise ForkedError(what, self._pid)


_USER: Final = _Owner()


class _OwnChannel(grpc.aio.Channel):
    """A channel whose calls begin in the process that opened it, or not at all."""

    def __init__(self, inner: grpc.aio.Channel) -> None:
        self._inner = inner
        self._owner = _Owner(os.getpid())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        if self._owner.is_us:  # a child closes nothing of its parent's
            await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002
        self._owner.check("the channel")
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(
        self, last_observed_state: grpc.ChannelConnectivity
    ) -> None:
        self._owner.check("the channel")
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        self._owner.check("the channel")
        await self._inner.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._owned(self._inner.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._owned(self._inner.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._owned(self._inner.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._owned(self._inner.stream_stream(*args, **kwargs))

    def _owned(self, start: Callable[..., Any]) -> Callable[..., Any]:
        check = self._owner.check

        def begin(*args: Any, **kwargs: Any) -> Any:
            check("the channel")
            return start(*args, **kwargs)

        return begin
