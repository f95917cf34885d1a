"""Serve every method of one service by passing it on, byte for byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

import grpc
from grpc._cython.cygrpc import UsageError
from grpc.aio import AioRpcError

from router._errors import MethodUnknownError, RouterError, SandboxUnreachableError
from router._relay import (
    GONE,
    Upload,
    carry_down,
    carry_down_but_one,
    first_of,
    hang_up,
    last_of,
)
from serving import carried, span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

__all__ = ["Forwarder", "Limits", "Method", "Passage"]


@dataclass(frozen=True, slots=True)
class Method:
    """One method that is passed on, e.g. ``/cubemesh.v1.PicoD/Stat``."""

    path: str
    streams_up: bool
    streams_down: bool
    # Whether an empty message down says nothing: all that it could hold is repeated.
    empty_is_nothing: bool = False
    # Whether our contract knows it.
    known: bool = True

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def label(self) -> str:
        """The path, or what stands for all paths that callers make up."""
        return self.path if self.known else "unknown"

    @classmethod
    def of(cls, method: MethodDescriptor) -> Method:
        """Take path and cardinality from the contract."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        fields = method.output_type.fields
        return cls(
            path,
            method.client_streaming,
            method.server_streaming,
            bool(fields) and all(field.is_repeated for field in fields),
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """How long calls may take, in seconds, whatever deadline the caller has set."""

    # A call with one message each way.
    call_timeout: float = 600.0
    stream_age: float = 86_400.0


class Passage(Protocol):
    """Leave for one call to reach one sandbox, until `close`."""

    # Starts the call: a multicallable of the sandbox's channel.
    start: Callable[..., Any]
    # What the sandbox is told.
    metadata: tuple[tuple[str, str | bytes], ...]
    # What the caller is told beside PicoD's own initial metadata.
    news: tuple[tuple[str, str | bytes], ...]
    # Whether the caller has the news.
    told: bool
    # How the sandbox ended the call; CANCELLED until it did.
    code: grpc.StatusCode

    async def explain(self, code: grpc.StatusCode, details: str) -> RouterError | None:
        """Name the fault behind a status that the sandbox did not send itself."""

    def close(self) -> None:
        """Note that the call is over."""


Admit: TypeAlias = "Callable[[Method, Any], Awaitable[Passage]]"
Refuse: TypeAlias = "Callable[[Any, RouterError], Awaitable[NoReturn]]"
Relay: TypeAlias = "Callable[[Any, Passage, Any], Awaitable[Any]]"


class Forwarder(grpc.GenericRpcHandler):
    """Forwards what *service* has; refuses the rest as unknown.

    *admit* gives each call its passage or raises a RouterError; *refuse* ends a call
    with such an error. With *unknown*, methods that *service* lacks go to the sandbox
    too, as streams.
    """

    def __init__(
        self,
        service: ServiceDescriptor,
        *,
        admit: Admit,
        refuse: Refuse,
        limits: Limits,
        unknown: bool = False,
    ) -> None:
        self._prefix = f"/{service.full_name}/"
        self._unknown = unknown
        self._parts = (admit, refuse, limits)
        methods = [Method.of(method) for method in service.methods]
        self._handlers = {each.path: self._handler(each) for each in methods}
        self._stranger = _refusing(refuse)

    def service(self, handler_call_details: Any) -> Any:
        """Return what serves the method; never ``None``: this handler comes last."""
        path = handler_call_details.method
        if (handler := self._handlers.get(path)) is not None:
            return handler
        if self._unknown and path.startswith(self._prefix):
            return self._handler(Method(path, True, True, known=False))  # noqa: FBT003
        return self._stranger

    def _handler(self, method: Method) -> Any:
        admit, refuse, limits = self._parts
        streams = method.streams_up or method.streams_down
        limit = limits.stream_age if streams else limits.call_timeout
        return _Forwarded(method, admit, refuse, limit).handler()


def _refusing(refuse: Refuse) -> Any:
    async def refuse_unknown(_: object, context: Any) -> None:
        await refuse(context, MethodUnknownError("no such method here"))

    return grpc.stream_stream_rpc_method_handler(refuse_unknown)


class _Forwarded:
    """Passes on the calls of one method."""

    __slots__ = ("_admit", "_limit", "_method", "_refuse")

    def __init__(
        self, method: Method, admit: Admit, refuse: Refuse, limit: float
    ) -> None:
        self._method, self._admit, self._refuse = method, admit, refuse
        self._limit = limit

    def handler(self) -> Any:
        """Return the handler of the method's own cardinality; bytes in, bytes out."""
        method = self._method
        if method.streams_down and not method.streams_up and method.empty_is_nothing:
            return grpc.unary_unary_rpc_method_handler(self._down_to_the_last)
        shape = (method.streams_up, method.streams_down)
        made: dict[tuple[bool, bool], Callable[[], Any]] = {
            (False, False): lambda: grpc.unary_unary_rpc_method_handler(self._unary),
            (False, True): lambda: grpc.unary_stream_rpc_method_handler(self._down),
            (True, False): lambda: grpc.stream_unary_rpc_method_handler(self._up),
            (True, True): lambda: grpc.stream_stream_rpc_method_handler(self._both),
        }
        return made[shape]()

    async def _unary(self, request: bytes, context: Any) -> Any:
        return await self._run(context, _answer, request)

    async def _down(self, request: bytes, context: Any) -> Any:
        return await self._run(context, _answers, request)

    async def _down_to_the_last(self, request: bytes, context: Any) -> Any:
        return await self._run(context, _answers_but_one, request)

    async def _up(self, _: object, context: Any) -> Any:
        return await self._run(context, _upload)

    async def _both(self, _: object, context: Any) -> Any:
        return await self._run(context, _exchange)

    async def _run(self, context: Any, relay: Relay, *request: bytes) -> Any:
        """Admit the call and pass it on; the caller always gets a status."""
        try:
            try:
                passage = await self._admit(self._method, context)
            except RouterError as error:
                await self._refuse(context, error)
            try:
                with span(self._method.label.removeprefix("/"), asking=True):
                    return await self._pass_on(context, passage, relay, *request)
            finally:
                passage.close()
        except GONE:  # the caller vanished while we spoke
            await hang_up(context)
        except asyncio.CancelledError:
            await hang_up(context)

    async def _pass_on(
        self, context: Any, passage: Passage, relay: Relay, *request: bytes
    ) -> Any:
        left = context.time_remaining()
        limit = self._limit if left is None else min(left, self._limit)
        call = None
        try:
            metadata = carried(passage.metadata)
            call = passage.start(*request, timeout=limit, metadata=metadata)
            answer = await relay(context, passage, call)
            if trailing := await last_of(call):
                context.set_trailing_metadata(trailing)
        except AioRpcError:
            await self._fail(context, passage, call)
        except UsageError:  # the channel was closed before we could use it
            await self._break_off(context, passage)
        except asyncio.CancelledError:
            if _cancelled():
                raise
            await self._break_off(context, passage)
        else:
            passage.code = grpc.StatusCode.OK
            return answer
        finally:
            if call is not None and not call.done():
                call.cancel()

    async def _fail(self, context: Any, passage: Passage, call: Any) -> NoReturn:
        """End the caller's call as the sandbox ended its own.

        A status that comes with trailing metadata is PicoD's. One without is what our
        channel says of the connection, and means nothing to the caller.
        """
        passage.code = code = await call.code()
        details, trailing = await call.details(), await last_of(call)
        if not passage.told:
            await _tell(context, passage, call)
        if not trailing and (error := await passage.explain(code, details)):
            await self._refuse(context, error)
        await context.abort(code, details, trailing)
        raise AssertionError  # abort always raises

    async def _break_off(self, context: Any, passage: Passage) -> NoReturn:
        """End a call whose channel was closed by ourselves."""
        passage.code = code = grpc.StatusCode.CANCELLED
        if not passage.told and passage.news:
            await context.send_initial_metadata(passage.news)
            passage.told = True
        error = await passage.explain(code, "the channel was closed")
        await self._refuse(context, error or SandboxUnreachableError("gone"))


def _cancelled() -> bool:
    """Say whether this very task was cancelled, not only something it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _tell(context: Any, passage: Passage, call: Any) -> None:
    """Pass on the initial metadata; an empty one goes along with what follows."""
    initial = await first_of(call)
    if initial or passage.news:
        await context.send_initial_metadata((*initial, *passage.news))
    passage.told = True


async def _answer(context: Any, passage: Passage, call: Any) -> Any:
    response = await call
    await _tell(context, passage, call)
    return response


async def _answers(context: Any, passage: Passage, call: Any) -> None:
    await _tell(context, passage, call)
    await carry_down(call, context.write)


async def _answers_but_one(context: Any, passage: Passage, call: Any) -> bytes:
    """Pass on all messages; return the last, which so leaves with the status.

    On the wire an answer and the last message of a stream are the same.
    """
    await _tell(context, passage, call)
    return await carry_down_but_one(call, context.write)


async def _upload(context: Any, passage: Passage, call: Any) -> Any:
    async with Upload(context, call):
        return await _answer(context, passage, call)


async def _exchange(context: Any, passage: Passage, call: Any) -> None:
    async with Upload(context, call):
        await _answers(context, passage, call)
