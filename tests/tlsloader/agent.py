"""A SPIFFE agent that says what a test wants, over a real socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from spiffe._proto import workload_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from tests.forge import Forge, Svid


def offered(
    identity: str, svid: Svid, forge: Forge, **changed: Any
) -> workload_pb2.X509SVID:
    """Return *svid* as an agent offers it, with fields *changed*."""
    key = load_pem_private_key(svid.key, None)
    fields: dict[str, Any] = {
        "spiffe_id": identity,
        "x509_svid": b"".join(svid.ders),
        "x509_svid_key": key.private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        ),
        "bundle": roots(forge),
    }
    return workload_pb2.X509SVID(**{**fields, **changed})


def roots(*forges: Forge) -> bytes:
    """Return the roots of *forges* as a bundle of the Workload API."""
    return b"".join(each.root.certificate.public_bytes(Encoding.DER) for each in forges)


def _written(answer: Any) -> bytes:
    raw: bytes = answer if isinstance(answer, bytes) else answer.SerializeToString()
    return raw


class Agent:
    """Says its state to everyone who asks, and again at each change."""

    def __init__(self, socket: Path) -> None:
        self.endpoint = f"unix://{socket}"
        self.asked = 0
        self.minted = 0
        self.may_mint = asyncio.Event()
        self.may_mint.set()
        self.mint: Callable[[Any], Any] = lambda _: workload_pb2.JWTSVIDResponse()
        self._answer: Any = None
        self._code: grpc.StatusCode | None = grpc.StatusCode.PERMISSION_DENIED
        self._version = 0
        self._changed = asyncio.Condition()

    async def say(
        self,
        *svids: workload_pb2.X509SVID,
        federated: Mapping[str, bytes] | None = None,
    ) -> None:
        self._answer = workload_pb2.X509SVIDResponse(
            svids=svids, federated_bundles=federated or {}
        )
        await self._change(None)

    async def publish(self, bundles: Mapping[str, bytes]) -> None:
        """Say which keys judge JWT-SVIDs, by trust domain."""
        self._answer = workload_pb2.JWTBundlesResponse(bundles=bundles)
        await self._change(None)

    async def end(self, code: grpc.StatusCode) -> None:
        """End every conversation with *code*, until there is something to say.

        OK is an end without a word of complaint, which comes once.
        """
        await self._change(code)

    async def babble(self, data: bytes) -> None:
        """Say *data*, whatever that is."""
        self._answer = data
        await self._change(None)

    async def hang(self) -> None:
        """Take every question and answer none, as a process that is stopped does."""
        self._answer = None
        await self._change(None)

    async def _change(self, code: grpc.StatusCode | None) -> None:
        async with self._changed:
            self._code = code
            self._version += 1
            self._changed.notify_all()

    async def fetch(self, _request: Any, context: Any) -> AsyncIterator[Any]:
        self.asked += 1
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no header")
        while True:
            version = self._version
            if self._code is grpc.StatusCode.OK:
                self._code = None
                return
            if self._code is not None:
                await context.abort(self._code, "no identity issued")
            if self._answer is not None:
                yield self._answer
            async with self._changed:
                await self._changed.wait_for(lambda: self._version != version)  # noqa: B023

    async def fetch_token(self, request: Any, context: Any) -> Any:
        self.minted += 1
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no header")
        if self._code is not None:
            await context.abort(self._code, "no identity issued")
        await self.may_mint.wait()
        return self.mint(request)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the block runs; may be entered again."""
        stream: Any = grpc.unary_stream_rpc_method_handler(
            self.fetch, response_serializer=_written
        )
        tokens = grpc.unary_unary_rpc_method_handler(
            self.fetch_token,
            request_deserializer=workload_pb2.JWTSVIDRequest.FromString,
            response_serializer=_written,
        )
        methods = {
            "FetchX509SVID": stream,
            "FetchJWTBundles": stream,
            "FetchJWTSVID": tokens,
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", methods),)
        )
        server.add_insecure_port(f"unix:{self.endpoint.removeprefix('unix://')}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)
