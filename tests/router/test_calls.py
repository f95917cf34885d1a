"""Calls through the whole Router: found, admitted, forwarded, counted, touched."""

from __future__ import annotations

import asyncio
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from auth import Principal
from cubemesh.v1 import workloadmanager_pb2 as wm
from router._admission import Load
from serving import Refusal
from tests.fakes import until
from tests.router.manager import ALICE, session_id
from tests.router.mesh import SESSION, Mesh, error_of, mesh, retry_of
from tests.router.upstream import INTERACT, READ, STAT, WRITE, Script

if TYPE_CHECKING:
    from pathlib import Path

EXECUTE = "/cubemesh.v1.PicoD/Execute"


async def time_passes(mesh: Mesh, step: float, condition: Any) -> None:
    """Move the clock by steps, with heartbeats, until *condition* holds."""
    while not condition():
        mesh.manager.beat()
        await mesh.clock.advance(step)
        for _ in range(2):
            await mesh.ask("/cubemesh.v1.Sessions/ListTemplates")


async def test_a_warm_call_costs_no_look_up(tmp_path: Path) -> None:
    """Sessions of the watch are known; nobody asks the WorkloadManager for them."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        net.manager.tell(session)
        await until(lambda: len(net.house.sessions) == 1)
        for _ in range(3):
            assert await net.ask(STAT, session.session_id) == b"onetwo"
        assert net.manager.asked["GetSession"] == 0
        assert net.way.lines == 1


async def test_many_first_calls_ask_once(tmp_path: Path) -> None:
    """A session nobody told of costs one look-up and one channel for all."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        net.manager.held["GetSession"] = asyncio.Event()
        calls = [
            net.call(STAT, x_agentcube_session_id=session.session_id) for _ in range(9)
        ]
        await until(lambda: net.house.load.open == len(calls))
        net.manager.held["GetSession"].set()
        assert set(await asyncio.gather(*calls)) == {b"onetwo"}
        assert net.manager.asked["GetSession"] == 1
        assert net.way.lines == 1


async def test_a_caller_that_leaves_takes_no_look_up_along(tmp_path: Path) -> None:
    """Others wait for the same answer."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        net.manager.held["GetSession"] = asyncio.Event()
        first = net.call(STAT, x_agentcube_session_id=session.session_id)
        first_code = asyncio.ensure_future(first.code())
        await until(lambda: net.manager.asked["GetSession"])
        second = net.call(STAT, x_agentcube_session_id=session.session_id)
        first.cancel()
        await first_code
        net.manager.held["GetSession"].set()
        assert await second == b"onetwo"


@pytest.mark.parametrize("named", [session_id(9), "ses-1", "'; drop", "x" * 200])
async def test_a_session_nobody_knows_is_not_found(tmp_path: Path, named: str) -> None:
    """Ids that cannot be are refused without a question."""
    async with mesh(tmp_path) as net:
        call = net.call(STAT, x_agentcube_session_id=named)
        code, reason, _ = await error_of(call)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        assert net.manager.asked["GetSession"] == (named == session_id(9))


async def test_an_ended_session_is_told_to_its_owner_only(tmp_path: Path) -> None:
    """Others are not even told that it was there, or whose it was."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        net.manager.end(session)
        for who in ("alice", "admin"):
            call = net.call(STAT, who, x_agentcube_session_id=session.session_id)
            assert await error_of(call) == (
                grpc.StatusCode.NOT_FOUND,
                "SESSION_EXPIRED",
                {"session_id": session.session_id, "ended_by": "ttl"},
            )
        call = net.call(STAT, "bob", x_agentcube_session_id=session.session_id)
        assert await error_of(call) == (
            grpc.StatusCode.NOT_FOUND,
            "SESSION_NOT_FOUND",
            {},
        )


async def test_an_ending_session_is_dropped_at_once(tmp_path: Path) -> None:
    """Running calls end with SESSION_EXPIRED, and the channel is closed."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        net.sandbox.script = Script(wait=True)
        call = net.call(STAT, x_agentcube_session_id=session.session_id)
        ended = asyncio.ensure_future(error_of(call))
        await net.sandbox.entered.wait()
        net.manager.end(session)
        code, reason, metadata = await ended
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_EXPIRED")
        assert metadata == {"ended_by": "ttl", "session_id": session.session_id}
        await net.way.closed.wait()
        assert len(net.house.channels) == 0
        await until(lambda: net.house.load.open == 0)


async def test_a_session_past_its_end_is_asked_for_again(tmp_path: Path) -> None:
    """Extended meanwhile, it goes on; ended meanwhile, it is over."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        net.clock.jump(3601)
        net.manager.beat()
        await until(lambda: net.house.locator.silence == 0)
        net.manager.end(session, tell=False)
        call = net.call(STAT, x_agentcube_session_id=session.session_id)
        assert (await error_of(call))[1] == "SESSION_EXPIRED"


async def test_a_session_that_is_not_ready_takes_no_calls(tmp_path: Path) -> None:
    """The caller may try again."""
    async with mesh(tmp_path) as net:
        session = net.manager.add(state=wm.SESSION_STATE_STARTING)
        call = net.call(STAT, x_agentcube_session_id=session.session_id)
        assert (await error_of(call))[:2] == (
            grpc.StatusCode.UNAVAILABLE,
            "SANDBOX_UNREACHABLE",
        )


async def test_an_administrator_may_use_any_session(tmp_path: Path) -> None:
    """--admin-ids opens sessions of others; the sandbox is told who really calls."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        assert await net.ask(STAT, session.session_id, "admin") == b"onetwo"
        told = net.sandbox.metadata["x-cubemesh-principal-bin"]
        assert isinstance(told, bytes)
        assert Principal.decode(told).subject == "spiffe://x/admin"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"x_cubemesh_namespace": "default"}, ""),
        ({"x_cubemesh_namespace": "other"}, "SESSION_MISMATCH"),
        ({"x_cubemesh_template": "python"}, ""),
        ({"x_cubemesh_template": "node"}, "SESSION_MISMATCH"),
    ],
)
async def test_a_session_is_used_where_it_lives(
    tmp_path: Path, more: dict[str, str], reason: str
) -> None:
    """Another namespace or template than the session's own is refused."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        call = net.call(STAT, x_agentcube_session_id=session.session_id, **more)
        assert (await error_of(call))[1] == reason


async def test_only_listed_metadata_reach_the_sandbox(tmp_path: Path) -> None:
    """Trace context and request id pass; credentials and our own names do not."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        await net.ask(
            STAT,
            session.session_id,
            traceparent="00-1-2-3",
            tracestate="a=b",
            x_request_id="r1",
            authorization="Bearer mine",
            cookie="c",
            x_cubemesh_proof="x",
            proxy_authorization="y",
        )
        told = dict(net.sandbox.metadata)
        assert isinstance(told.pop("x-cubemesh-principal-bin"), bytes)
        told.pop("user-agent")
        assert told == {
            "traceparent": "00-1-2-3",
            "tracestate": "a=b",
            "x-request-id": "r1",
        }


async def test_a_forged_principal_is_replaced(tmp_path: Path) -> None:
    """The sandbox reads the principal that was proven, once."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        front: Any = net.front
        await front.unary_unary(STAT)(
            b"",
            metadata=[
                ("x-who", "alice"),
                (SESSION, session.session_id),
                ("x-cubemesh-principal-bin", b"forged"),
            ],
        )
        told = net.sandbox.metadata["x-cubemesh-principal-bin"]
        assert isinstance(told, bytes)
        assert Principal.decode(told) == ALICE


async def test_a_call_gets_a_name_if_it_has_none(tmp_path: Path) -> None:
    """Every call can be found in the sandbox's log."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        first = net.sandbox.metadata["x-request-id"]
        await net.ask(STAT, session.session_id)
        assert first
        assert net.sandbox.metadata["x-request-id"] != first


@pytest.mark.parametrize("key", [SESSION, "x-cubemesh-template", "x-request-id"])
async def test_a_key_named_twice_is_refused(tmp_path: Path, key: str) -> None:
    """Nobody has to guess which of two was meant."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        front: Any = net.front
        told = [("x-who", "alice"), (SESSION, session.session_id)]
        call = front.unary_unary(STAT)(b"", metadata=[*told, (key, "a"), (key, "b")])
        assert (await error_of(call))[1] == "INVALID_REQUEST"


async def test_too_many_calls_are_refused_with_a_time(tmp_path: Path) -> None:
    """Above the limit callers read SERVER_OVERLOADED and when to come again."""
    async with mesh(tmp_path, load=Load(2, 10)) as net:
        session = net.manager.add()
        net.sandbox.script = Script(wait=True)
        held = [
            net.call(STAT, x_agentcube_session_id=session.session_id) for _ in range(2)
        ]
        await until(lambda: net.house.load.open == 2)
        for path in (STAT, "/cubemesh.v1.Sessions/ListTemplates"):
            call = net.call(path, x_agentcube_session_id=session.session_id)
            code, reason, metadata = await error_of(call)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (reason, metadata) == ("SERVER_OVERLOADED", {"limit": "server"})
            assert await retry_of(call) == 1.0
        net.sandbox.go.set()
        assert await asyncio.gather(*held) == [b"onetwo"] * 2
        await until(lambda: net.house.load.open == 0)
        assert await net.ask(STAT, session.session_id) == b"onetwo"


async def test_one_session_cannot_take_all_places(tmp_path: Path) -> None:
    """A session has a limit of its own, and others go on."""
    async with mesh(tmp_path, load=Load(10, 1)) as net:
        session, other = net.manager.add(), net.manager.add()
        net.sandbox.script = Script(wait=True)
        held = net.call(STAT, x_agentcube_session_id=session.session_id)
        await net.sandbox.entered.wait()
        call = net.call(STAT, x_agentcube_session_id=session.session_id)
        assert (await error_of(call))[1:] == ("SERVER_OVERLOADED", {"limit": "session"})
        net.sandbox.go.set()
        assert await net.ask(STAT, other.session_id) == b"onetwo"
        assert await held == b"onetwo"


async def test_refused_calls_leave_their_places(tmp_path: Path) -> None:
    """No refusal, of whatever kind, wears the Router out."""
    async with mesh(tmp_path, load=Load(1, 1)) as net:
        session = net.manager.add()
        for who, named in [("bob", session.session_id), ("bob", session_id(9))] * 3:
            await error_of(net.call(STAT, who, x_agentcube_session_id=named))
        assert await net.ask(STAT, session.session_id) == b"onetwo"


# Sessions made by a first call


async def test_a_first_call_makes_a_session(tmp_path: Path) -> None:
    """Its id is in the initial metadata of the answer, and it is the caller's."""
    async with mesh(tmp_path) as net:
        call = net.call(
            EXECUTE,
            x_cubemesh_template="node",
            x_cubemesh_namespace="team",
            x_cubemesh_idempotency_key="k",
        )
        told = dict(await call.initial_metadata())[SESSION]
        (order,) = net.manager.created
        assert told in net.manager.sessions
        assert (order.template, order.namespace, order.request_id) == (
            "node",
            "team",
            "k",
        )
        assert order.owner.subject == ALICE.subject


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (EXECUTE, {}),
        (STAT, {"x_cubemesh_template": "python"}),
        (READ, {"x_cubemesh_template": "python"}),
        (INTERACT, {"x_cubemesh_template": "python"}),
    ],
)
async def test_other_calls_need_a_session(
    tmp_path: Path, path: str, more: dict[str, str]
) -> None:
    """Only Execute, RunCode and WriteFile make one, and only of a named template."""
    async with mesh(tmp_path) as net:
        code, reason, _ = await error_of(net.call(path, **more))
        assert (code, reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "SESSION_REQUIRED",
        )
        assert not net.manager.created


@pytest.mark.parametrize("path", [EXECUTE, WRITE])
async def test_the_id_comes_also_with_a_failure(tmp_path: Path, path: str) -> None:
    """PicoD's refusal does not cost the caller its new session."""
    async with mesh(tmp_path) as net:
        net.sandbox.script = Script(
            code=grpc.StatusCode.NOT_FOUND, details="no such command"
        )
        call = net.call(path, x_cubemesh_template="python")
        assert await call.code() is grpc.StatusCode.NOT_FOUND
        assert dict(await call.initial_metadata())[SESSION] in net.manager.sessions
        assert net.manager.deleted.empty()


async def test_the_id_comes_also_when_the_sandbox_cannot_be_reached(
    tmp_path: Path,
) -> None:
    """The session is there, whatever became of the call."""
    async with mesh(tmp_path) as net:
        net.way.broken = True
        call = net.call(EXECUTE, x_cubemesh_template="python")
        assert (await error_of(call))[1] == "SANDBOX_UNREACHABLE"
        assert dict(await call.initial_metadata())[SESSION] in net.manager.sessions


async def test_a_session_whose_caller_vanished_is_ended(tmp_path: Path) -> None:
    """Gone while the session was being made: nobody will ever use it."""
    async with mesh(tmp_path) as net:
        net.manager.held["CreateSession"] = asyncio.Event()
        call = net.call(EXECUTE, x_cubemesh_template="python")
        code = asyncio.ensure_future(call.code())
        await until(lambda: net.manager.created)
        call.cancel()
        await code
        await until(lambda: net.house.load.open == 0)
        net.manager.held["CreateSession"].set()
        assert await net.manager.deleted.get() in net.manager.ended


async def test_a_session_whose_id_was_never_told_is_ended(tmp_path: Path) -> None:
    """Gone before the answer began: the same."""
    async with mesh(tmp_path) as net:
        net.manager.no["DeleteSession"] = Refusal(grpc.StatusCode.UNAVAILABLE, "NO")
        sandbox = net.sandbox
        sandbox.script = Script(wait=True, answers=())
        call = net.call(WRITE, x_cubemesh_template="python")
        code = asyncio.ensure_future(call.code())
        await sandbox.entered.wait()
        call.cancel()
        await code
        await until(lambda: net.manager.asked["DeleteSession"])
        del net.manager.no["DeleteSession"]
        await time_passes(net, 1, lambda: not net.manager.deleted.empty())


async def test_a_session_with_a_key_lives_on(tmp_path: Path) -> None:
    """By its idempotency key the caller can still get at it."""
    async with mesh(tmp_path) as net:
        net.manager.held["CreateSession"] = asyncio.Event()
        call = net.call(
            EXECUTE, x_cubemesh_template="python", x_cubemesh_idempotency_key="k"
        )
        code = asyncio.ensure_future(call.code())
        await until(lambda: net.manager.created)
        call.cancel()
        await code
        net.manager.held["CreateSession"].set()
        await until(lambda: net.manager.sessions)
        await net.ask("/cubemesh.v1.Sessions/ListTemplates")
        assert net.manager.asked["DeleteSession"] == 0


async def test_a_refused_session_is_told_with_its_reason(tmp_path: Path) -> None:
    """The WorkloadManager's own words reach the caller: status, reason, metadata."""
    async with mesh(tmp_path) as net:
        net.manager.no["CreateSession"] = Refusal(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_EXHAUSTED", retry_after=3.0
        )
        call = net.call(EXECUTE, x_cubemesh_template="python")
        assert await error_of(call) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "POOL_EXHAUSTED",
            {"a": "b"},
        )
        assert await retry_of(call) == 3.0


# When the WorkloadManager is not heard


async def test_without_a_heartbeat_live_sessions_go_on(tmp_path: Path) -> None:
    """After 60 s of silence new sessions and changes are refused, calls are not."""
    async with mesh(tmp_path) as net:
        session, stranger = net.manager.add(), net.manager.add()
        await net.ask(STAT, session.session_id)
        net.clock.jump(61)
        assert await net.ask(STAT, session.session_id) == b"onetwo"
        refused = [
            net.call(STAT, x_agentcube_session_id=stranger.session_id),
            net.call(EXECUTE, x_cubemesh_template="python"),
            net.call("/cubemesh.v1.Sessions/CreateSession"),
        ]
        for call in refused:
            code, reason, _ = await error_of(call)
            assert code is grpc.StatusCode.UNAVAILABLE
            assert reason == "WORKLOADMANAGER_UNREACHABLE"
        net.manager.beat()
        await until(lambda: net.house.locator.silence == 0)
        assert await net.ask(STAT, stranger.session_id) == b"onetwo"


async def test_a_lost_watch_is_begun_again_where_it_ended(tmp_path: Path) -> None:
    """What changed meanwhile is not missed."""
    async with mesh(tmp_path) as net:
        net.manager.tell(net.manager.add())
        await until(lambda: len(net.house.sessions) == 1)
        net.manager.watching.clear()
        net.manager.cut()
        await until(lambda: not net.manager.watchers)
        await time_passes(net, 1, net.manager.watching.is_set)
        assert net.manager.asked["resumed"] == net.manager.revision


async def test_a_silent_watch_is_given_up(tmp_path: Path) -> None:
    """A stream on which not even heartbeats come is begun anew."""
    async with mesh(tmp_path) as net:
        net.manager.watching.clear()
        while not net.manager.watching.is_set():
            await net.clock.advance(1)
            await net.ask("/cubemesh.v1.Sessions/ListTemplates")
        assert net.house.watch.restarts
        assert net.clock.now() - net.manager.now < timedelta(seconds=40)


# Touches


async def test_use_is_told_within_a_second(tmp_path: Path) -> None:
    """A running call keeps its session alive; an ended one is told once."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        net.sandbox.script = Script(wait=True)
        call = net.call(STAT, x_agentcube_session_id=session.session_id)
        await net.sandbox.entered.wait()
        touches = net.manager.touches
        for _ in range(2):
            before = net.clock.now()
            await time_passes(net, 0.2, lambda: not touches.empty())
            (touch,) = touches.get_nowait().touches
            assert (touch.session_id, touch.open_calls) == (session.session_id, 1)
            assert before <= touch.last_activity.ToDatetime(UTC) <= net.clock.now()
            # A step more, as the clock does not wait for the answer
            assert net.clock.now() - before <= timedelta(seconds=1.4)
        net.sandbox.go.set()
        await call
        await until(lambda: net.house.load.open == 0)
        await time_passes(net, 0.2, lambda: not touches.empty())
        (touch,) = touches.get_nowait().touches
        assert touch.open_calls == 0
        later = net.clock.now() + timedelta(seconds=3)
        await time_passes(net, 0.2, lambda: net.clock.now() > later)
        assert touches.empty()


async def test_a_question_about_use_is_answered_at_once(tmp_path: Path) -> None:
    """The WorkloadManager waits 2 s at most before it ends a session as idle."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        net.manager.query(session_id(9))
        net.manager.query(session.session_id)
        (touch,) = (await net.manager.touches.get()).touches
        assert touch.session_id == session.session_id


async def test_use_that_could_not_be_told_is_told_later(tmp_path: Path) -> None:
    """A WorkloadManager that is away loses no activity."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        net.manager.no["TouchSessions"] = Refusal(grpc.StatusCode.UNAVAILABLE, "NO")
        await time_passes(net, 1, lambda: net.manager.asked["TouchSessions"])
        net.manager.no.clear()
        await time_passes(net, 1, lambda: not net.manager.touches.empty())


async def test_idle_channels_are_closed_and_opened_again(tmp_path: Path) -> None:
    """A thousand forgotten sessions do not hold a thousand connections."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        await net.ask(STAT, session.session_id)
        await time_passes(net, 5, net.way.closed.is_set)
        assert await net.ask(STAT, session.session_id) == b"onetwo"
        assert net.way.lines == 2


# Audit


async def test_every_refusal_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who, what, which session, why; and never what a call carried."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        call = net.call(
            STAT, "bob", x_agentcube_session_id=session.session_id, x_request_id="r7"
        )
        await error_of(call)
        (line,) = [r for r in caplog.records if r.name == "router.audit"]
        assert (
            vars(line).items()
            >= {
                "who": "spiffe://cluster.local/user/bob",
                "method": STAT,
                "session_id": session.session_id,
                "decision": "deny",
                "reason": "SESSION_NOT_YOURS",
                "request_id": "r7",
            }.items()
        )
        assert net.house.refusals == {"SESSION_NOT_YOURS": 1}


async def test_permissions_are_logged_once_and_then_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No call is missing in the log, and none costs a line of its own."""
    caplog.set_level("INFO", "router.audit")
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        for _ in range(4):
            await net.ask(STAT, session.session_id)
        for upstream in net.house.channels:
            net.house.audit.sum_up(upstream)
            net.house.audit.sum_up(upstream)
        lines = [r for r in caplog.records if r.name == "router.audit"]
        told = [(r.message, vars(r).get("count")) for r in lines]
        assert told == [("allowed", None), ("allowed again", 3)]
