"""The Sessions service: what callers see of their sessions, and no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from cubemesh.v1 import router_pb2 as pb
from cubemesh.v1 import router_pb2_grpc as pb_grpc
from cubemesh.v1.picod_pb2 import NewFile
from cubemesh.v1.workloadmanager_pb2 import START_WARM
from serving import Refusal
from tests.fakes import until
from tests.router.manager import ALICE, BOB, session_id
from tests.router.mesh import Mesh, error_of, mesh
from tests.router.upstream import STAT

if TYPE_CHECKING:
    from pathlib import Path


def stub(net: Mesh) -> Any:
    return pb_grpc.SessionsStub(net.front)


def told(who: str = "alice", **more: str) -> list[tuple[str, str]]:
    return [("x-who", who), *((k.replace("_", "-"), v) for k, v in more.items())]


async def test_create_passes_every_wish_on(tmp_path: Path) -> None:
    """All that is wished for, namespace and key arrive; the owner is proven."""
    async with mesh(tmp_path) as net:
        request = pb.SessionsCreateSessionRequest(
            template="node",
            lifetime=Duration(seconds=60),
            idle_timeout=Duration(seconds=5),
            environment={"A": "b"},
            files=[NewFile(path=b"in\xff", content=b"1")],
            secrets={"KEY": b"s3cret\xff"},
        )
        metadata = told(x_cubemesh_namespace="team", x_cubemesh_idempotency_key="k")
        answer = await stub(net).CreateSession(request, metadata=metadata)
        (order,) = net.manager.created
        assert order.template == "node"
        assert order.namespace == "team"
        assert order.request_id == "k"
        assert order.lifetime.seconds == 60
        assert order.idle_timeout.seconds == 5
        assert order.environment == {"A": "b"}
        assert list(order.files) == list(request.files)
        assert order.secrets == {"KEY": b"s3cret\xff"}
        assert order.owner.subject == ALICE.subject
        assert answer.session.session_id in net.manager.sessions


async def test_create_has_defaults(tmp_path: Path) -> None:
    """Nothing named: python in default, with the template's own times."""
    async with mesh(tmp_path) as net:
        await stub(net).CreateSession(
            pb.SessionsCreateSessionRequest(), metadata=told()
        )
        (order,) = net.manager.created
        assert (order.template, order.namespace) == ("python", "default")
        assert not order.HasField("lifetime")
        assert not order.HasField("idle_timeout")


async def test_a_created_session_is_warm(tmp_path: Path) -> None:
    """The first call after CreateSession costs no look-up."""
    async with mesh(tmp_path) as net:
        answer = await stub(net).CreateSession(
            pb.SessionsCreateSessionRequest(), metadata=told()
        )
        await net.ask(STAT, answer.session.session_id)
        assert net.manager.asked["GetSession"] == 0


async def test_a_create_whose_caller_vanished_is_undone(tmp_path: Path) -> None:
    """Nobody knows the session, so it does not stay."""
    async with mesh(tmp_path) as net:
        net.manager.held["CreateSession"] = asyncio.Event()
        request = pb.SessionsCreateSessionRequest()
        call = stub(net).CreateSession(request, metadata=told())
        code = asyncio.ensure_future(call.code())
        await until(lambda: net.manager.created)
        call.cancel()
        await code
        await until(lambda: net.house.load.open == 0)
        net.manager.held["CreateSession"].set()
        assert await net.manager.deleted.get() in net.manager.ended


async def test_answers_hold_no_internals(tmp_path: Path) -> None:
    """Addresses, identities, sandbox ids and secrets stay inside the mesh."""
    async with mesh(tmp_path) as net:
        session = net.manager.add(start=START_WARM)
        answers = [
            await stub(net).GetSession(
                pb.SessionsGetSessionRequest(session_id=session.session_id),
                metadata=told(),
            ),
            await stub(net).ListSessions(
                pb.SessionsListSessionsRequest(), metadata=told()
            ),
        ]
        for answer in answers:
            raw = answer.SerializeToString()
            for hidden in (
                session.address,
                session.spiffe_id,
                session.sandbox_id,
                session.proof_secret.decode(),
            ):
                assert hidden
                assert hidden.encode() not in raw
        shown = answers[0].session
        assert shown.created_at == session.created_at
        assert shown.expires_at == session.expires_at
        assert (shown.template, shown.start) == ("python", START_WARM)


async def test_a_list_holds_ones_own(tmp_path: Path) -> None:
    """Everybody's is for administrators."""
    async with mesh(tmp_path) as net:
        mine, other = net.manager.add(ALICE), net.manager.add(BOB)
        ask = stub(net).ListSessions
        answer = await ask(pb.SessionsListSessionsRequest(), metadata=told())
        assert [each.session_id for each in answer.sessions] == [mine.session_id]
        assert answer.next_page_token == "more"
        everybody = pb.SessionsListSessionsRequest(all_owners=True)
        answer = await ask(everybody, metadata=told("admin"))
        assert {each.session_id for each in answer.sessions} == {
            mine.session_id,
            other.session_id,
        }
        call = ask(everybody, metadata=told())
        assert (await error_of(call))[:2] == (
            grpc.StatusCode.PERMISSION_DENIED,
            "SESSION_NOT_YOURS",
        )


async def test_an_extended_session_is_used_longer_at_once(tmp_path: Path) -> None:
    """The answer of the extension is what the next call goes by."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        request = pb.SessionsExtendSessionRequest(
            session_id=session.session_id, lifetime=Duration(seconds=7200)
        )
        answer = await stub(net).ExtendSession(request, metadata=told())
        assert answer.session.expires_at == session.expires_at
        asked = net.manager.asked["GetSession"]
        net.clock.jump(3700)
        assert await net.ask(STAT, session.session_id) == b"onetwo"
        assert net.manager.asked["GetSession"] == asked


async def test_a_deleted_session_is_gone_at_once(tmp_path: Path) -> None:
    """Without waiting for the watch: channel closed, further calls refused."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        request = pb.SessionsDeleteSessionRequest(session_id=session.session_id)
        await stub(net).DeleteSession(request, metadata=told())
        await net.way.closed.wait()
        call = net.call(STAT, x_agentcube_session_id=session.session_id)
        assert (await error_of(call))[1] == "SESSION_EXPIRED"


async def test_templates_are_listed(tmp_path: Path) -> None:
    """What the WorkloadManager has is what callers see."""
    async with mesh(tmp_path) as net:
        answer = await stub(net).ListTemplates(
            pb.SessionsListTemplatesRequest(), metadata=told()
        )
        assert [each.name for each in answer.templates] == ["python"]


@pytest.mark.parametrize("verb", ["GetSession", "ExtendSession", "DeleteSession"])
async def test_verbs_name_a_session_that_is_there(tmp_path: Path, verb: str) -> None:
    """No id, and an id nobody knows, each have their reason."""
    async with mesh(tmp_path) as net:
        method, request = (
            getattr(stub(net), verb),
            getattr(pb, f"Sessions{verb}Request"),
        )
        for named, reason in (
            ("", "INVALID_REQUEST"),
            (session_id(7), "SESSION_NOT_FOUND"),
        ):
            call = method(request(session_id=named), metadata=told())
            assert (await error_of(call))[1] == reason


@pytest.mark.parametrize("verb", ["GetSession", "ExtendSession", "DeleteSession"])
async def test_verbs_keep_to_the_namespace(tmp_path: Path, verb: str) -> None:
    """A session of another namespace than the named one is refused."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        request = getattr(pb, f"Sessions{verb}Request")(session_id=session.session_id)
        metadata = told(x_cubemesh_namespace="other")
        call = getattr(stub(net), verb)(request, metadata=metadata)
        assert (await error_of(call))[1] == "SESSION_MISMATCH"


@pytest.mark.parametrize(
    ("refusal", "code", "reason"),
    [
        (
            Refusal(grpc.StatusCode.NOT_FOUND, "TEMPLATE_NOT_FOUND"),
            grpc.StatusCode.NOT_FOUND,
            "TEMPLATE_NOT_FOUND",
        ),
        (
            Refusal(grpc.StatusCode.PERMISSION_DENIED, "DENIED"),
            grpc.StatusCode.UNAVAILABLE,
            "WORKLOADMANAGER_UNREACHABLE",
        ),
    ],
)
async def test_what_the_manager_answers(
    tmp_path: Path, refusal: Refusal, code: grpc.StatusCode, reason: str
) -> None:
    """A refusal about the caller is kept; one about the Router is our own fault."""
    async with mesh(tmp_path) as net:
        net.manager.no["CreateSession"] = refusal
        call = stub(net).CreateSession(
            pb.SessionsCreateSessionRequest(), metadata=told()
        )
        assert (await error_of(call))[:2] == (code, reason)


@pytest.mark.parametrize("verb", ["ExtendSession", "DeleteSession"])
async def test_changes_wait_for_the_manager(tmp_path: Path, verb: str) -> None:
    """Nothing heard for a minute: no changes, and the caller is told why."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        net.clock.jump(61)
        request = getattr(pb, f"Sessions{verb}Request")(session_id=session.session_id)
        call = getattr(stub(net), verb)(request, metadata=told())
        assert (await error_of(call))[:2] == (
            grpc.StatusCode.UNAVAILABLE,
            "WORKLOADMANAGER_UNREACHABLE",
        )
