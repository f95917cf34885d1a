"""Exceptions become statuses by the table, and nothing else reaches the caller."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from auth import Denied
from serving import DOMAIN, Refusal, Table, aborting, denied, refuse
from tests.serving.conftest import call, fails, serving_raw, stream_of
from tlsloader.grpc import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    Context = grpc.aio.ServicerContext[Any, Any]


class GoneError(Exception):
    def __init__(self, text: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.metadata = metadata


class LongGoneError(GoneError):
    pass


class BusyError(Exception):
    pass


TABLE: Table = {
    GoneError: Refusal(grpc.StatusCode.NOT_FOUND, "GONE"),
    BusyError: Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", retry_after=1.5),
}


async def failure(error: BaseException) -> grpc.aio.AioRpcError:
    """Return what a caller sees when *error* leaves a handler's block."""

    async def handler(_: bytes, context: Context) -> bytes:
        context.set_trailing_metadata((("x-before", "stays"),))
        async with aborting(context, TABLE):
            raise error

    async with serving_raw(handler) as channel:
        return await fails(channel)


def info_of(failed: grpc.aio.AioRpcError) -> ErrorInfo:
    """Return the ErrorInfo of *failed*."""
    status = rpc_status.from_call(failed)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


async def test_tells_status_reason_and_metadata() -> None:
    """A listed exception tells its text, stable reason, and what it carries."""
    failed = await failure(GoneError("no session ses-x", {"session_id": "ses-x"}))
    assert failed.code() is grpc.StatusCode.NOT_FOUND
    assert failed.details() == "no session ses-x"
    info = info_of(failed)
    assert (info.reason, info.domain) == ("GONE", DOMAIN)
    assert dict(info.metadata) == {"session_id": "ses-x"}


async def test_a_subclass_follows_its_base() -> None:
    """A new subclass cannot fall out of the table."""
    assert info_of(await failure(LongGoneError("x"))).reason == "GONE"


async def test_tells_when_to_come_back() -> None:
    """Overload carries a RetryInfo, for clients that wait."""
    status = rpc_status.from_call(await failure(BusyError("full")))
    retry = RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500


async def test_keeps_trailing_metadata_set_before() -> None:
    """The details are added to what the handler said already."""
    trailing = (await failure(GoneError("x"))).trailing_metadata()
    assert trailing is not None
    assert ("x-before", "stays") in list(trailing)


async def test_tells_nothing_of_other_exceptions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An unlisted exception is a bug: logged in full, told as nothing."""
    failed = await failure(KeyError("/etc/secret"))
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert failed.details() == "internal error"
    assert info_of(failed).reason == "INTERNAL"
    assert "/etc/secret" not in repr(failed)
    assert "/etc/secret" in caplog.text


async def test_cuts_what_would_not_fit() -> None:
    """A long or strange text never turns a refusal into a transport error."""
    bad = "\udcff\n%" + "ä" * 5000
    failed = await failure(GoneError(bad, {f"{n}{bad}": bad for n in range(50)}))
    assert failed.code() is grpc.StatusCode.NOT_FOUND
    assert (failed.details() or "").startswith("\\udcff\n%ää")
    assert info_of(failed).reason == "GONE"


async def test_an_inner_cancellation_leaves_nobody_hanging() -> None:
    """CancelledError from within is answered; gRPC alone would never answer."""
    failed = await failure(asyncio.CancelledError())
    assert failed.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("not_admitted", grpc.StatusCode.PERMISSION_DENIED),
        ("no_token", grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_a_gate_denies_with_details(reason: str, code: grpc.StatusCode) -> None:
    """Clients tell a denial by its stable reason, and learn nothing of ours."""

    def decide(method: str, context: Context) -> None:
        del method, context
        raise Denied(reason, "secret detail")

    async def handler(_: bytes, context: Context) -> bytes:
        raise AssertionError(context)

    gate = Gate(decide, refused=denied)
    async with serving_raw(handler, interceptors=[gate]) as channel:
        failed = await fails(channel)
    assert (failed.code(), failed.details()) == (code, "denied")
    expected = {"not_admitted": "DENIED", "no_token": "UNAUTHENTICATED"}
    assert info_of(failed).reason == expected[reason]
    assert "secret" not in repr(failed)


async def test_an_abort_inside_passes() -> None:
    """What was refused by hand inside the block is not refused anew."""

    async def handler(_: bytes, context: Context) -> bytes:
        async with aborting(context, TABLE):
            await refuse(context, TABLE[GoneError], "by hand")
        return b""

    async with serving_raw(handler) as channel:
        assert (await fails(channel)).details() == "by hand"


async def test_streams_end_with_their_status() -> None:
    """What was sent before the failure arrives, then the status."""

    async def handler(_: bytes, context: Context) -> AsyncIterator[bytes]:
        async with aborting(context, TABLE):
            yield b"1"
            raise GoneError("later")

    async with serving_raw(stream=handler) as channel:
        stream = aiter(stream_of(channel))
        assert await anext(stream) == b"1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(stream)
    assert info_of(caught.value).reason == "GONE"


async def test_a_caller_who_hangs_up_ends_the_block() -> None:
    """The cancellation of the call itself passes, so that cleanup runs."""
    entered, ended = asyncio.Event(), asyncio.Event()

    async def handler(_: bytes, context: Context) -> bytes:
        async with aborting(context, TABLE):
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
        return b""

    async with serving_raw(handler) as channel:
        task = asyncio.ensure_future(call(channel))
        async with asyncio.timeout(5):
            await entered.wait()
            task.cancel()
            await ended.wait()
