from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

from clock import SYSTEM
from cubemesh.v1 import principal_pb2, workloadmanager_pb2_grpc
from cubemesh.v1 import workloadmanager_pb2 as pb
from serving import Health, Hosted, new_server, serve
from tests.fakes import running
from tests.forge import Forge
from tests.tlsloader.transport import PREFACE, tls
from tests.workloadmanager.engine import ANN, House, until, wish
from tlsloader import Acceptor, Allowlist, Dialer, SpiffeID
from tlsloader.grpc import Gate, channel
from workloadmanager import _errors
from workloadmanager._demand import Capacity
from workloadmanager._door import only
from workloadmanager._errors import SandboxStartError, WorkloadManagerError
from workloadmanager._servicer import TABLE, WorkloadManagerServicer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
OURS = "spiffe://cluster.local/ns/agentcube-system/sa/workloadmanager"
USER = "spiffe://cluster.local/user/ann"
OWNER = principal_pb2.Principal(
    issuer=ANN.issuer, subject=ANN.subject, display=ANN.display
)


class Mesh:
    """A WorkloadManager behind its real door."""

    def __init__(
        self, house: House, acceptor: Acceptor, services: Forge, sandboxes: Forge
    ) -> None:
        self.house, self.acceptor = house, acceptor
        self.services, self.sandboxes = services, sandboxes
        self.address = ""

    @asynccontextmanager
    async def stub(
        self, identity: str = ROUTER
    ) -> AsyncIterator[workloadmanager_pb2_grpc.WorkloadManagerAsyncStub]:
        dialer = Dialer(
            self.services.source(identity),
            expected=SpiffeID.parse(OURS),
            address=self.address,
        )
        opened = channel(await dialer.start())
        try:
            yield workloadmanager_pb2_grpc.WorkloadManagerStub(opened)
        finally:
            await opened.close()
            await dialer.aclose()

    async def knock(self, context: ssl.SSLContext | None) -> bytes:
        """Connect, speak first, and return what is answered before the end."""
        how: dict[str, Any] = {}
        if context is not None:
            how = {"ssl": context, "server_hostname": "x"}
        answer = b""
        path = self.address.removeprefix("unix:")
        with suppress(OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_unix_connection(path, **how)
                try:
                    writer.write(PREFACE)
                    answer = await reader.read(65536)
                finally:
                    writer.transport.abort()
        return answer


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    # It trusts the sandboxes' domain, as the WorkloadManager of a careless operator
    # may: the allowlist alone has to keep them out.
    services, sandboxes = Forge("cluster.local"), Forge("sandbox.cluster.local")
    source = services.source(OURS, foreign=[sandboxes])
    acceptor = Acceptor(source, allow=Allowlist.parse(ROUTER), name="workloadmanager")
    gate = Gate(only(SpiffeID.parse(ROUTER), acceptor))
    stop, listening = asyncio.Event(), asyncio.Event()
    async with House.open(tmp_path, SYSTEM, capacity=Capacity(3)) as house:
        mesh = Mesh(house, acceptor, services, sandboxes)
        health = Health("cubemesh.v1.WorkloadManager")
        server = new_server([gate], health=health)
        workloadmanager_pb2_grpc.add_WorkloadManagerServicer_to_server(
            WorkloadManagerServicer(house.sessions, isolation="bwrap"), server
        )

        def ready(addresses: Any) -> None:
            mesh.address = addresses[0]
            listening.set()

        hosted = Hosted(server, f"unix:{tmp_path}/wm.sock", acceptor)
        async with running(serve(hosted, stop=stop, health=health, ready=ready)):
            await listening.wait()
            yield mesh
            house.sessions.feed.close()
            stop.set()


def asked(**changes: Any) -> pb.CreateSessionRequest:
    request = pb.CreateSessionRequest(
        owner=OWNER, namespace="default", template="short"
    )
    request.MergeFrom(pb.CreateSessionRequest(**changes))
    return request


def details(error: grpc.aio.AioRpcError) -> tuple[ErrorInfo, RetryInfo]:
    status = rpc_status.from_call(error)
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details:
        for message in (info, retry):
            detail.Unpack(message)
    return info, retry


async def refused(call: Any) -> tuple[grpc.StatusCode, ErrorInfo, RetryInfo]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), *details(caught.value)


async def test_a_session_from_its_making_to_its_end(mesh: Mesh) -> None:
    """Every method of the service, over mutual TLS, with all fields on the wire."""
    async with mesh.stub() as stub:
        made = (await stub.CreateSession(asked(environment={"A": "1"}))).session
        assert made.state == pb.SESSION_STATE_READY
        assert made.owner == OWNER
        assert (made.namespace, made.template) == ("default", "short")
        assert made.address.endswith(f"{made.sandbox_id}/data.sock")
        assert made.spiffe_id.endswith(made.sandbox_id)
        assert made.isolation.level == "none"
        assert made.idle_timeout.ToTimedelta() == timedelta(minutes=5)
        lifetime = made.expires_at.ToDatetime() - made.created_at.ToDatetime()
        assert lifetime == timedelta(minutes=10)
        request = pb.GetSessionRequest(session_id=made.session_id)
        assert (await stub.GetSession(request)).session == made
        listed = await stub.ListSessions(pb.ListSessionsRequest(owner=OWNER))
        assert list(listed.sessions) == [made]
        extend = pb.ExtendSessionRequest(session_id=made.session_id)
        extend.lifetime.FromTimedelta(timedelta(minutes=15))
        extended = (await stub.ExtendSession(extend)).session
        assert extended.expires_at.ToDatetime() > made.expires_at.ToDatetime()
        touch = pb.TouchSessionsRequest(
            touches=[
                pb.TouchSessionsRequest.Touch(session_id=made.session_id, open_calls=1)
            ]
        )
        await stub.TouchSessions(touch)
        touched = (await stub.GetSession(request)).session
        assert touched.last_activity.ToDatetime() > made.last_activity.ToDatetime()
        await stub.DeleteSession(pb.DeleteSessionRequest(session_id=made.session_id))
        code, info, _ = await refused(stub.GetSession(request))
    assert code == grpc.StatusCode.NOT_FOUND
    assert (info.reason, info.domain) == ("SESSION_EXPIRED", "cubemesh")
    assert info.metadata["ended_by"] == "deleted"
    assert info.metadata["owner_issuer"] == ANN.issuer
    assert info.metadata["owner_subject"] == ANN.subject
    assert mesh.house.engine.alive == {}


async def test_templates_are_told(mesh: Mesh) -> None:
    """With the level that holds when the template names none."""
    async with mesh.stub() as stub:
        answer = await stub.ListTemplates(pb.ListTemplatesRequest())
    python, short = answer.templates
    assert (python.name, python.isolation) == ("python", "bwrap")
    assert short.maximum_lifetime.ToTimedelta() == timedelta(minutes=20)
    assert short.default_lifetime.ToTimedelta() == timedelta(minutes=10)
    assert short.idle_timeout.ToTimedelta() == timedelta(minutes=5)


async def test_a_watch_tells_and_resumes(mesh: Mesh) -> None:
    """Snapshot, changes with revisions, and no second snapshot after a short break."""
    async with mesh.stub() as stub:
        first = (await stub.CreateSession(asked())).session
        watch = stub.WatchSessions(pb.WatchSessionsRequest(router_id="r"))
        snapshot = await watch.read()
        assert isinstance(snapshot, pb.WatchSessionsResponse)
        assert list(snapshot.snapshot.sessions) == [first]
        assert snapshot.snapshot.complete
        second = (await stub.CreateSession(asked())).session
        changed = await watch.read()
        assert isinstance(changed, pb.WatchSessionsResponse)
        assert changed.changed == second
        assert changed.revision == snapshot.revision + 1
        watch.cancel()
        await stub.DeleteSession(pb.DeleteSessionRequest(session_id=first.session_id))
        again = stub.WatchSessions(
            pb.WatchSessionsRequest(resume_revision=changed.revision)
        )
        beat, ended = await again.read(), await again.read()
        assert isinstance(beat, pb.WatchSessionsResponse)
        assert isinstance(ended, pb.WatchSessionsResponse)
        assert beat.WhichOneof("event") == "heartbeat"
        assert ended.changed.state == pb.SESSION_STATE_ENDED
        mesh.house.sessions.feed.ask(second.session_id)
        query = await again.read()
        assert isinstance(query, pb.WatchSessionsResponse)
        assert query.activity_query.session_id == second.session_id
        mesh.house.sessions.feed.close()
        assert await again.read() is grpc.aio.EOF
    await until(lambda: mesh.house.sessions.feed.watchers == 0)


async def test_a_caller_who_hangs_up_leaves_no_sandbox(mesh: Mesh) -> None:
    """Neither by cancelling nor by letting the deadline pass."""
    engine = mesh.house.engine
    engine.gate.clear()
    async with mesh.stub() as stub:
        call = stub.CreateSession(asked())
        await until(lambda: engine.alive)
        call.cancel()
        await until(lambda: len(engine.destroyed) == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateSession(asked(), timeout=0.05)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: len(engine.destroyed) == 2)
    await until(lambda: len(mesh.house.sessions) == 0)
    assert engine.alive == {}


async def test_a_full_house_says_when_to_come_again(mesh: Mesh) -> None:
    """POOL_EXHAUSTED carries RetryInfo."""
    async with mesh.stub() as stub:
        for _ in range(3):
            await stub.CreateSession(asked())
        code, info, retry = await refused(stub.CreateSession(asked()))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (info.reason, info.metadata["limit"]) == ("POOL_EXHAUSTED", "3")
    assert retry.retry_delay.seconds == 30


async def test_every_fault_has_its_status_and_reason(mesh: Mesh) -> None:
    """What callers may build on: code, reason and metadata, never an inner text."""
    mesh.house.engine.fault = SandboxStartError("a secret path")
    long = pb.CreateSessionRequest()
    long.lifetime.seconds = 10**10
    odd = pb.CreateSessionRequest()
    odd.lifetime.seconds = -1
    async with mesh.stub() as stub:
        made = (
            (asked(template="none"), "NOT_FOUND", "TEMPLATE_NOT_FOUND"),
            (asked(template="A"), "INVALID_ARGUMENT", "INVALID_REQUEST"),
            (asked(request_id="\x7f"), "INVALID_ARGUMENT", "INVALID_REQUEST"),
            (asked(lifetime=long.lifetime), "INVALID_ARGUMENT", "INVALID_REQUEST"),
            (asked(lifetime=odd.lifetime), "INVALID_ARGUMENT", "INVALID_REQUEST"),
            (pb.CreateSessionRequest(), "INVALID_ARGUMENT", "INVALID_REQUEST"),
            (asked(), "UNAVAILABLE", "SANDBOX_START_FAILED"),
        )
        for request, status, reason in made:
            code, info, _ = await refused(stub.CreateSession(request))
            assert (code.name, info.reason) == (status, reason), request
            assert "secret" not in str(info)
        unknown = "ses-" + "a" * 26
        others = (
            stub.GetSession(pb.GetSessionRequest(session_id=unknown)),
            stub.DeleteSession(pb.DeleteSessionRequest(session_id=unknown)),
        )
        for call in others:
            code, info, _ = await refused(call)
            assert (code.name, info.reason) == ("NOT_FOUND", "SESSION_NOT_FOUND")
        touches = [pb.TouchSessionsRequest.Touch()] * 10_001
        strange = pb.TouchSessionsRequest.Touch()
        strange.last_activity.seconds = 10**15
        bad: tuple[Any, ...] = (
            stub.ListSessions(pb.ListSessionsRequest(page_size=1001)),
            stub.ListSessions(pb.ListSessionsRequest(page_token="x")),
            stub.ListSessions(pb.ListSessionsRequest(owner=principal_pb2.Principal())),
            stub.TouchSessions(pb.TouchSessionsRequest(touches=touches)),
            stub.TouchSessions(pb.TouchSessionsRequest(touches=[strange])),
        )
        for call in bad:
            code, info, _ = await refused(call)
            assert (code.name, info.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


async def test_a_mismatch_and_an_end_are_told(mesh: Mesh) -> None:
    """A request id of another kind, and a service that is going down."""
    async with mesh.stub() as stub:
        await stub.CreateSession(asked(request_id="r"))
        code, info, _ = await refused(
            stub.CreateSession(asked(request_id="r", template="python"))
        )
        assert (code.name, info.reason) == ("FAILED_PRECONDITION", "SESSION_MISMATCH")
        assert info.metadata["template"] == "short"
        mesh.house.sessions._tasks = None
        code, info, _ = await refused(stub.CreateSession(asked()))
        assert (code.name, info.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")


def test_no_error_of_ours_is_missing_in_the_table() -> None:
    """A new error cannot reach a caller as INTERNAL by being forgotten."""
    at_start = {_errors.StateError, _errors.TemplateFileError}
    # One goes to our log and figures; after the other a sandbox is made afresh.
    inside = {_errors.RenewalError, _errors.BindingError}
    ours = {
        each
        for each in vars(_errors).values()
        if isinstance(each, type) and issubclass(each, WorkloadManagerError)
    }
    assert ours - at_start - inside - {WorkloadManagerError} == set(TABLE)


async def test_an_error_of_nobody_tells_nothing(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is INTERNAL for the caller; its text is in our log alone."""
    mesh.house.engine.fault = KeyError("a secret")
    async with mesh.stub() as stub:
        with (
            caplog.at_level(logging.ERROR),
            pytest.raises(grpc.aio.AioRpcError) as caught,
        ):
            await stub.CreateSession(asked())
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error"
    assert "a secret" in caplog.text
    assert mesh.house.engine.alive == {}


async def test_only_the_router_is_answered(mesh: Mesh) -> None:
    """The knocking of the next tests is answered when the right one knocks."""
    assert (await mesh.knock(tls(mesh.services.svid(ROUTER))))[3] == 4, "SETTINGS"


async def test_every_bad_certificate_is_refused(mesh: Mesh) -> None:
    """No byte of HTTP/2 for any of them, and a reason for each in our counters."""
    cases = list(mesh.services.bad_cases(ROUTER))
    for case in cases:
        assert await mesh.knock(tls(case.chain)) == b"", case.title
    await until(lambda: mesh.acceptor.refusals.total() == len(cases))
    assert mesh.house.engine.begun == 0


@pytest.mark.parametrize(
    "identity",
    [
        USER,
        OURS,
        ROUTER + "/more",
        ROUTER + "s",
        "spiffe://cluster.local/ns/other/sa/agentcube-router",
    ],
)
async def test_a_valid_certificate_of_somebody_else_is_refused(
    mesh: Mesh, identity: str
) -> None:
    """Users, services and namesakes of other namespaces are not the Router."""
    assert await mesh.knock(tls(mesh.services.svid(identity))) == b""
    await until(lambda: mesh.acceptor.refusals["not_admitted"] == 1)


async def test_a_sandbox_is_refused_with_its_own_valid_identity(mesh: Mesh) -> None:
    """Even where its trust domain is trusted: code in it must not make sandboxes."""
    own = "spiffe://sandbox.cluster.local/ns/agentcube-system/sandbox/sbx-" + "a" * 26
    as_router = ROUTER.replace("cluster.local", "sandbox.cluster.local", 1)
    for identity in (own, as_router):
        assert await mesh.knock(tls(mesh.sandboxes.svid(identity))) == b"", identity
    assert await mesh.knock(tls(mesh.sandboxes.svid(ROUTER))) == b""
    await until(lambda: mesh.acceptor.refusals.total() == 3)
    assert mesh.acceptor.connections == 0


async def test_nobody_comes_in_without_a_certificate_or_tls(mesh: Mesh) -> None:
    """Neither anonymous TLS nor plain HTTP/2."""
    assert await mesh.knock(tls(None)) == b""
    assert await mesh.knock(None) == b""
    await until(lambda: mesh.acceptor.refusals.total() == 2)


async def test_the_gate_asks_again_at_every_call(mesh: Mesh) -> None:
    """An open connection is of no use once its identity is off the list."""
    async with mesh.stub() as stub:
        await stub.ListTemplates(pb.ListTemplatesRequest())
        mesh.acceptor._allow = Allowlist.parse(USER)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListTemplates(pb.ListTemplatesRequest())
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "denied"


async def test_unlisted_services_are_open_to_nobody(mesh: Mesh) -> None:
    """A service added to the server by mistake is not reachable through the door."""
    decide = only(SpiffeID.parse(ROUTER), mesh.acceptor)

    class Context:
        def peer(self) -> str:
            return next(iter(mesh.acceptor._guests)).name

    async with mesh.stub() as stub:
        await stub.ListTemplates(pb.ListTemplatesRequest())
        assert decide("/cubemesh.v1.WorkloadManager/GetSession", Context())
        assert decide("/grpc.health.v1.Health/Check", Context())
        with pytest.raises(Exception, match="nobody may call"):
            decide("/cubemesh.v1.PicoD/Execute", Context())


async def test_sessions_of_earlier_processes_are_told(mesh: Mesh) -> None:
    """What was made without this door is served by it all the same."""
    made = await mesh.house.sessions.create(replace(wish(), request_id="x"))
    async with mesh.stub() as stub:
        request = pb.GetSessionRequest(session_id=made.session_id)
        assert (await stub.GetSession(request)).session.session_id == made.session_id
