"""The conversation with a SPIFFE agent, begun anew when it ends or falls silent.

Source: SPIFFE Workload API, sections 4 and 5; SPIFFE Workload Endpoint, section 6.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from tlsloader._ear import Ear
from tlsloader._endpoint import parse_endpoint
from tlsloader._errors import MaterialError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from clock import Clock

__all__ = ["AGENT_OPTIONS", "Agent", "messages"]

# gRPC's own waiting, up to two minutes, and ours: together below a second
AGENT_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # bounds an attempt, not the waiting
    ("grpc.max_reconnect_backoff_ms", 400),
)
"""For channels to an agent, or a server, of SPIFFE: back within a second of it."""

_SERVICE: Final = "/SpiffeWorkloadAPI"
_METADATA: Final = (("workload.spiffe.io", "true"),)
_NOTHING: Final = b""  # the requests of streams have no fields
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.25
_LONGEST_PAUSES: Final = {
    grpc.StatusCode.PERMISSION_DENIED: 0.8,  # an entry may be made at any time
    grpc.StatusCode.INVALID_ARGUMENT: 30.0,  # our fault or the agent's: it will stay
    grpc.StatusCode.UNIMPLEMENTED: 30.0,
}


class Agent:
    """What the agent at *endpoint* ``said`` last, and why it is ``lost``, if it is.

    It is asked by *method*, whose answers are of the *kind* that the service's
    definition names. ``ear`` hears each of them; every one is the full state.
    """

    def __init__(
        self,
        endpoint: str,
        clock: Clock,
        *,
        method: str = "FetchX509SVID",
        kind: str = "X509SVIDResponse",
    ) -> None:
        self._method = method
        self._kind = kind
        self.ear = Ear(clock)
        self.said: bytes | None = None
        self.lost: MaterialError | None = None
        self._clock = clock
        self._target = parse_endpoint(endpoint)
        self._where = f"the SPIFFE agent at {self._target}"

    def answer(self) -> Any:
        """Return what it said last, read as a message of our kind.

        Raises:
            MaterialError: it has not said anything yet, or no such message.
        """
        if self.said is None:
            raise self.lost or self._silent()
        return self._read(self.said, self._kind)

    async def ask(self, method: str, request: bytes, kind: str, wait: float) -> Any:
        """Return its one answer to *request*, a message of that *kind*.

        Raises:
            MaterialError: there is none within *wait* seconds.
        """
        async with grpc.aio.insecure_channel(
            self._target, options=AGENT_OPTIONS
        ) as channel:
            fetch: Any = channel.unary_unary(f"{_SERVICE}/{method}")
            try:
                said = await fetch(request, metadata=_METADATA, timeout=wait)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise self._silent() from None
                raise self._loss(error.code(), error.details() or "") from None
        return self._read(said, kind)

    def _read(self, said: bytes, kind: str) -> Any:
        try:
            return getattr(messages(), kind).FromString(said)
        except DecodeError as error:
            text = f"{self._where} said what is no {kind} ({error})"
            raise MaterialError("bad_answer", text) from error

    @asynccontextmanager
    async def asked(
        self,
        lost: Callable[[MaterialError], None],
        *,
        patience: float,
        seconds_left: Callable[[], float],
    ) -> AsyncIterator[None]:
        """Listen to the agent while the block runs.

        Args:
            lost: told once when the agent is lost, or gives us nothing any more.
            patience: seconds within which an agent that is well answers.
            seconds_left: how long what we have is good. Half of that without a word
                is too long: then we ask anew, since a stream may die in silence.
        """
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(lost, patience, seconds_left))
            try:
                yield
            finally:
                listening.cancel()

    async def _listen(
        self,
        lost: Callable[[MaterialError], None],
        patience: float,
        seconds_left: Callable[[], float],
    ) -> NoReturn:
        async with grpc.aio.insecure_channel(
            self._target, options=AGENT_OPTIONS
        ) as channel:
            fetch: Any = channel.unary_stream(f"{_SERVICE}/{self._method}")
            pause = _FIRST_PAUSE
            while True:
                call = fetch(_NOTHING, metadata=_METADATA)
                heard = await self._hear(call, patience, seconds_left)
                if heard is None:
                    continue  # it only was silent for long
                error, longest = heard
                if self.lost is None:  # it was well until now
                    pause = _FIRST_PAUSE
                if self.lost is None or self.lost.reason != error.reason:
                    self.lost = error
                    lost(error)
                await self._clock.sleep(pause)
                pause = min(2 * pause, longest)

    async def _hear(
        self, call: Any, patience: float, seconds_left: Callable[[], float]
    ) -> tuple[MaterialError, float] | None:
        """Take the answers of one *call* until it ends.

        Return why it did and how long to wait at most before the next one; ``None``
        if it just said nothing for long.
        """
        now, first = asyncio.get_running_loop().time, True
        try:
            async with asyncio.timeout(patience) as limit:
                async for said in call:
                    self.said, self.lost, first = said, None, False
                    self.ear.hear()
                    limit.reschedule(now() + max(patience, seconds_left() / 2))
        except TimeoutError:
            call.cancel()
            return (self._silent(), _LONGEST_PAUSE) if first else None
        except grpc.aio.AioRpcError as error:
            code = error.code()
            longest = _LONGEST_PAUSES.get(code, _LONGEST_PAUSE)
            return self._loss(code, error.details() or ""), longest
        return self._loss(None, "it ended the conversation"), _LONGEST_PAUSE

    def _silent(self) -> MaterialError:
        text = f"{self._where} does not answer; see what ails it"
        return MaterialError("agent_silent", text)

    def _loss(self, code: grpc.StatusCode | None, text: str) -> MaterialError:
        where = self._where
        match code:
            case grpc.StatusCode.PERMISSION_DENIED:
                remedy = "make an entry whose selectors are this process's"
                sentence = f"{where} gives us no identity ({text}); {remedy}"
                return MaterialError("withdrawn", sentence)
            case None | grpc.StatusCode.UNAVAILABLE:
                sentence = f"{where} is not there ({text}); see that it runs"
                return MaterialError("agent_unavailable", sentence)
        return MaterialError("agent_failed", f"{where} failed: {code.name} {text}")


def messages() -> Any:
    """Return the messages of the Workload API."""
    # Only here: its package takes a while, and brings much that nobody asked for
    from spiffe._proto import workload_pb2  # noqa: PLC0415

    return workload_pb2
