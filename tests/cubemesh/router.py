# ruff: noqa: ARG002, N802 - the method names and arguments are gRPC's
"""A Router made by hand: real gRPC, real TLS, sandboxes that are dictionaries."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cubemesh.v1 import picod_pb2, router_pb2, workloadmanager_pb2
from cubemesh.v1.picod_pb2_grpc import PicoDServicer, add_PicoDServicer_to_server
from cubemesh.v1.router_pb2_grpc import (
    SessionsServicer,
    add_SessionsServicer_to_server,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cubemesh.pki import CA

SESSION = "x-agentcube-session-id"
SERVER_NAME = "agentcube-router"
_CONTEXT = picod_pb2.Context(
    context_id="ctx-1",
    language="python",
    working_directory=b"/w",
    execution_count=2,
    busy=True,
    waiting=1,
)


async def refuse(
    context: Any,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *,
    retry_after: float | None = None,
) -> None:
    """Abort as the mesh does: with an ErrorInfo, and a RetryInfo if asked."""
    details = [error_details_pb2.ErrorInfo(domain="cubemesh", reason=reason)]
    packed = [_packed(detail) for detail in details]
    if retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(int(retry_after * 1e9))
        packed.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    await context.abort_with_status(rpc_status.to_status(status))


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


class FakeRouter(SessionsServicer, PicoDServicer):
    """Sessions and their files; commands are scripted in Python."""

    def __init__(self) -> None:
        self.sessions: dict[str, dict[bytes, bytes]] = {}
        self.metadata: list[dict[str, str | bytes]] = []
        self.seen_certificates: list[bytes] = []
        self.created: list[router_pb2.SessionsCreateSessionRequest] = []
        self.executed: list[picod_pb2.ExecuteRequest] = []
        self.asked: list[Any] = []  # about code and contexts
        self.hung_up = asyncio.Event()
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.refuse_upload_after: int | None = None

    # === Sessions ===

    async def CreateSession(self, request: Any, context: Any) -> Any:
        self._note(context)
        self.created.append(request)
        if request.template == "full":
            await refuse(
                context,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "POOL_EXHAUSTED",
                "no room",
                retry_after=1.5,
            )
        name = f"ses-{len(self.sessions) + 1}"
        self.sessions[name] = {}
        return router_pb2.SessionsCreateSessionResponse(session=self._session(name))

    async def GetSession(self, request: Any, context: Any) -> Any:
        await self._files(context, request.session_id)
        session = self._session(request.session_id)
        return router_pb2.SessionsGetSessionResponse(session=session)

    async def ListSessions(self, request: Any, context: Any) -> Any:
        names = sorted(self.sessions)
        start = names.index(request.page_token) if request.page_token else 0
        page = names[start : start + 1]
        rest = names[start + 1 : start + 2]
        return router_pb2.SessionsListSessionsResponse(
            sessions=[self._session(name) for name in page],
            next_page_token=rest[0] if rest else "",
        )

    async def DeleteSession(self, request: Any, context: Any) -> Any:
        await self._files(context, request.session_id)
        del self.sessions[request.session_id]
        return router_pb2.SessionsDeleteSessionResponse()

    # === PicoD ===

    async def Execute(self, request: Any, context: Any) -> Any:
        await self._files(context)
        self.executed.append(request)
        started = picod_pb2.Started(process_id="p1", pid=2)
        yield _told({"started": started})
        match list(request.argv):
            case ["/bin/sh", "-c", "hang"]:
                async for event in self._hang():
                    yield event
            case ["missing"]:
                await refuse(
                    context,
                    grpc.StatusCode.NOT_FOUND,
                    "COMMAND_NOT_FOUND",
                    "no such program: missing",
                )
            case ["exit", code]:
                yield _told({"exited": _exited(code=int(code))})
            case ["killed"]:
                yield _told({"exited": _exited(signal=9)})
            case ["slow"]:
                cause = picod_pb2.Exited.CAUSE_TIMEOUT
                yield _told({"exited": _exited(signal=9, cause=cause)})
            case ["cut"]:  # one character over two messages, then half a character
                for offset, data in enumerate((b"\xc3", b"\xa4", b"\xc3")):
                    yield _told({"output": _output(data, offset=offset)})
                yield _told({"exited": _exited(code=0)})
            case argv:
                oh = {"output": _output(b"oh", stream=picod_pb2.Output.STREAM_STDERR)}
                said = {"output": _output(" ".join(argv).encode())}
                yield _told(said, oh, {"exited": _exited(code=0)})

    async def _hang(self) -> AsyncIterator[picod_pb2.ExecuteResponse]:
        yield _told({"output": _output(b"first")})
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        yield _told({"exited": _exited(code=0)})

    async def RunCode(self, request: Any, context: Any) -> Any:
        await self._files(context)
        self.asked.append(request)
        started = picod_pb2.CodeStarted(context_id="python", execution_count=3)
        started.notice = "new"
        yield _ran({"started": started})
        if request.code == "hang":
            async for message in self._hang():
                output = message.events[0].output
                yield _ran({"output": output})
        if request.context_id == "none":
            code = grpc.StatusCode.NOT_FOUND
            await refuse(context, code, "CONTEXT_NOT_FOUND", "no such context")
        for data in (b"\xc3", b"\xa4"):  # one character over two messages
            yield _ran({"output": _output(data)})
        oh = _output(b"oh", stream=picod_pb2.Output.STREAM_STDERR)
        shown = {"text/plain": b"shown", "image/png": b"\x89"}
        yield _ran({"output": oh}, {"result": picod_pb2.Result(data=shown)})
        main = {"text/plain": b"42", "text/html": b"<b>", "application/json": b"[1]"}
        result = picod_pb2.Result(main=True, data=main, cut={"text/plain": "half"})
        yield _ran({"result": result})
        if request.code == "1/0":
            error = picod_pb2.CodeError(name="ZeroDivisionError", value="by zero")
            yield _ran({"error": error})
        finished = picod_pb2.CodeFinished(
            cause=picod_pb2.CodeFinished.CAUSE_TIMEOUT,
            duration=Duration(seconds=2),
            state_lost=True,
            output_omitted=5,
            results_omitted=6,
        )
        yield _ran({"finished": finished})

    async def CreateContext(self, request: Any, context: Any) -> Any:
        await self._files(context)
        self.asked.append(request)
        return picod_pb2.CreateContextResponse(context=_CONTEXT)

    async def ListContexts(self, request: Any, context: Any) -> Any:
        await self._files(context)
        imported = picod_pb2.Import(name="numpy", memory_bytes=7, error="no")
        imported.duration.FromMilliseconds(250)
        return picod_pb2.ListContextsResponse(contexts=[_CONTEXT], imports=[imported])

    async def RestartContext(self, request: Any, context: Any) -> Any:
        await self._files(context)
        self.asked.append(request)
        return picod_pb2.RestartContextResponse(context=_CONTEXT)

    async def DeleteContext(self, request: Any, context: Any) -> Any:
        await self._files(context)
        self.asked.append(request)
        return picod_pb2.DeleteContextResponse()

    async def ReadFile(self, request: Any, context: Any) -> Any:
        content = await self._file(context, request.path)
        info = picod_pb2.FileInfo(path=request.path, size=len(content))
        yield picod_pb2.ReadFileResponse(info=info)
        end = request.offset + request.length if request.length else len(content)
        content = content[request.offset : end]
        for start in range(0, len(content), 3000):
            yield picod_pb2.ReadFileResponse(data=content[start : start + 3000])

    async def WriteFile(self, requests: Any, context: Any) -> Any:
        files = await self._files(context)
        opened, content, committed = None, b"", None
        async for request in requests:
            match request.WhichOneof("part"):
                case "open":
                    opened = request.open
                case "data":
                    content += request.data
                case "commit":
                    committed = request.commit.size
            limit = self.refuse_upload_after
            if limit is not None and len(content) > limit:
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
                await refuse(context, code, "NO_SPACE", "the workspace is full")
        if opened is None or committed is None:
            return await context.abort(grpc.StatusCode.ABORTED, "not committed")
        mode = picod_pb2.WriteFileRequest.Open
        if opened.mode == mode.MODE_CREATE and opened.path in files:
            code = grpc.StatusCode.ALREADY_EXISTS
            await refuse(context, code, "FILE_EXISTS", "it exists")
        if opened.mode == mode.MODE_APPEND:
            content = files.get(opened.path, b"") + content
        files[opened.path] = content
        info = picod_pb2.FileInfo(
            path=opened.path, size=len(content), mode=opened.permissions
        )
        return picod_pb2.WriteFileResponse(info=info)

    async def Stat(self, request: Any, context: Any) -> Any:
        content = await self._file(context, request.path)
        info = picod_pb2.FileInfo(
            name=request.path,
            path=request.path,
            size=len(content),
            type=picod_pb2.FILE_TYPE_REGULAR,
        )
        return picod_pb2.StatResponse(info=info)

    async def ListDirectory(self, request: Any, context: Any) -> Any:
        for name in sorted(await self._files(context)):
            entry = picod_pb2.FileInfo(name=name, path=name)
            yield picod_pb2.ListDirectoryResponse(entries=[entry])

    async def Move(self, request: Any, context: Any) -> Any:
        files = await self._files(context)
        files[request.target] = files.pop(request.source)
        return picod_pb2.MoveResponse(info=picod_pb2.FileInfo(path=request.target))

    async def Remove(self, request: Any, context: Any) -> Any:
        del (await self._files(context))[request.path]
        return picod_pb2.RemoveResponse()

    # === common ===

    def _session(self, name: str) -> router_pb2.Session:
        return router_pb2.Session(
            session_id=name,
            template="python",
            state=workloadmanager_pb2.SESSION_STATE_READY,
            isolation=picod_pb2.Isolation(level="bwrap", own_uid=True),
            start=workloadmanager_pb2.START_WARM,
        )

    def _note(self, context: Any) -> dict[str, str | bytes]:
        metadata = dict(context.invocation_metadata())
        self.metadata.append(metadata)
        self.seen_certificates += context.auth_context().get("x509_pem_cert", [])
        return metadata

    async def _files(self, context: Any, name: str | None = None) -> dict[bytes, bytes]:
        metadata = self._note(context)
        name = str(metadata.get(SESSION)) if name is None else name
        if name not in self.sessions:
            code = grpc.StatusCode.NOT_FOUND
            await refuse(context, code, "SESSION_NOT_FOUND", f"no session {name}")
        return self.sessions[name]

    async def _file(self, context: Any, path: bytes) -> bytes:
        files = await self._files(context)
        if path not in files:
            code = grpc.StatusCode.NOT_FOUND
            await refuse(context, code, "FILE_NOT_FOUND", f"no file {path!r}")
        return files[path]


def _output(
    data: bytes, *, stream: Any = picod_pb2.Output.STREAM_STDOUT, offset: int = 0
) -> picod_pb2.Output:
    return picod_pb2.Output(stream=stream, offset=offset, data=data)


def _exited(**fields: Any) -> picod_pb2.Exited:
    return picod_pb2.Exited(duration=Duration(seconds=2), **fields)


def _told(*events: dict[str, Any]) -> picod_pb2.ExecuteResponse:
    return picod_pb2.ExecuteResponse(
        events=[picod_pb2.CommandEvent(**event) for event in events]
    )


def _ran(*events: dict[str, Any]) -> picod_pb2.RunCodeResponse:
    return picod_pb2.RunCodeResponse(
        events=[picod_pb2.CodeEvent(**event) for event in events]
    )


@asynccontextmanager
async def serving(
    servicer: FakeRouter, ca: CA, listen: str = "127.0.0.1:0"
) -> AsyncIterator[str]:
    """Serve *servicer* with mutual TLS; yield its address."""
    pair = ca.issue(
        "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router",
        dns=SERVER_NAME,
    )
    credentials = grpc.ssl_server_credentials(
        [(pair.key, pair.chain)], ca.bundle, require_client_auth=True
    )
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_SessionsServicer_to_server(servicer, server)
    add_PicoDServicer_to_server(servicer, server)
    port = server.add_secure_port(listen, credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
