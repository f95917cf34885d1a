"""The local engine with real PicoDs behind real isolation."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from auth import PRINCIPAL_METADATA
from clock import SYSTEM
from cubemesh.v1 import picod_pb2
from tests.forge import Forge
from tests.isolation.levels import each_level, need_gvisor
from tests.processes import logging_into
from tests.workloadmanager.engine import until, wish
from tests.workloadmanager.local import PRINCIPAL, Ground
from tests.workloadmanager.test_uids import first
from workloadmanager._contents import Contents
from workloadmanager._demand import Bounds, Capacity
from workloadmanager._errors import (
    BindingRefusedError,
    PoolExhaustedError,
    SandboxStartError,
    SessionExpiredError,
)
from workloadmanager._feed import Changed
from workloadmanager._picod import Place
from workloadmanager._process import Mark
from workloadmanager._sessions import Sessions
from workloadmanager._store import Store
from workloadmanager._templates import PYTHON, Templates
from workloadmanager._uids import Uids
from workloadmanager._values import Session, Start, State, Wish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from workloadmanager._local import LocalEngine

pytestmark = pytest.mark.slow

_NONE_AHEAD = Capacity()
SECRET = {"TOKEN": "s3cret-of-the-session"}
VALUE = SECRET["TOKEN"].encode()
STAT = picod_pb2.StatRequest(path=b".")
METADATA = ((PRINCIPAL_METADATA, PRINCIPAL.encode()),)


@pytest.fixture
def ground() -> Iterator[Ground]:
    ground = Ground()
    yield ground
    for process in logging_into(ground.folder):
        process.kill()
    ground.remove()


@asynccontextmanager
async def opened(
    ground: Ground,
    engine: LocalEngine | None = None,
    capacity: Capacity = _NONE_AHEAD,
    **template: object,
) -> AsyncIterator[Sessions]:
    store = await Store.open(ground.folder / "state" / "s.db")
    templates = Templates([replace(PYTHON, **template)])  # type: ignore[arg-type]
    try:
        async with (
            aclosing(engine or ground.engine()) as used,
            ground.forks.running(),
        ):
            sessions = Sessions(
                store=store, engine=used, templates=templates, capacity=capacity
            )
            async with asyncio.timeout(60), sessions.running():
                yield sessions
    finally:
        await store.close()


def order(**changes: object) -> Wish:
    return replace(wish(template="python"), **changes)  # type: ignore[arg-type]


def processes(session: Session) -> list[psutil.Process]:
    """Return PicoD and all below it."""
    mark = Place.read(session.sandbox_id, session.record).mark
    assert mark is not None
    picod = psutil.Process(mark.pid)
    return [picod, *picod.children(recursive=True)]


async def gone(*them: psutil.Process) -> None:
    await until(lambda: not any(Mark.of(each.pid) for each in them))


def _left_on_the_host(sandbox_id: str) -> list[Path]:
    groups = Path("/sys/fs/cgroup").rglob(f"*{sandbox_id}")
    return [*groups, *Path("/tmp").glob(f"*{sandbox_id}*")]


@each_level
async def test_a_sandbox_from_its_making_to_its_end(ground: Ground, level: str) -> None:
    """It runs commands for the Router, tells its isolation, and leaves nothing."""
    if level == "gvisor":
        need_gvisor()
    async with opened(ground, isolation=level) as sessions:
        made = await sessions.create(order(environment=SECRET))
        assert made.isolation is not None
        assert made.isolation.level == level
        assert made.isolation.own_uid == (os.geteuid() == 0)
        output = await ground.run(made, "sh", "-c", "echo $TOKEN; exit 3")
        assert output == ("s3cret-of-the-session\n", 3)
        folder = ground.plan.runtime / made.sandbox_id
        assert folder.stat().st_mode & 0o777 == 0o700
        family = processes(made)
        assert len(family) > 1
        await sessions.delete(made.session_id)
        assert not any(Mark.of(each.pid) for each in family)
        assert ground.left() == []
        assert _left_on_the_host(made.sandbox_id) == []


async def test_secrets_are_nowhere_on_disk(ground: Ground) -> None:
    """Neither in the store, nor in a log, nor in a command line or environment."""
    contents = Contents((), {"TOKEN": VALUE})
    async with opened(ground) as sessions:
        made = await sessions.create(order(environment=SECRET, contents=contents))
        await ground.run(made, "true")
        picod = processes(made)[0]
        assert SECRET["TOKEN"] not in str(picod.cmdline())
        assert SECRET["TOKEN"] not in str(picod.environ())
        assert set(picod.environ()) <= {"LANG", "PATH", "TMPDIR", "LC_CTYPE"}
        for path in ground.folder.rglob("*"):
            if path.is_file():
                assert VALUE not in path.read_bytes(), path


@each_level
@pytest.mark.parametrize("ahead", [0, 1], ids=["cold", "warm"])
async def test_files_and_secrets_are_there_from_the_start(
    ground: Ground, level: str, ahead: int
) -> None:
    """In a sandbox made for the session, and in one that waited for it."""
    if level == "gvisor":
        need_gvisor()
    contents = Contents([(b"d/in", b"1,2\n")], {"TOKEN": VALUE})
    capacity = Capacity(100, Bounds(ahead, ahead))
    async with opened(ground, capacity=capacity, isolation=level) as sessions:
        await until(lambda: sum(sessions.pools.ready.values()) == ahead)
        made = await sessions.create(order(contents=contents))
        assert made.start is (Start.WARM if ahead else Start.COLD)
        look = "cat d/in $CUBEMESH_SECRETS/TOKEN"
        told = await ground.run(made, "sh", "-c", look)
        assert told == ("1,2\ns3cret-of-the-session", 0)


@pytest.mark.parametrize("ahead", [0, 1], ids=["cold", "warm"])
async def test_a_sandbox_that_cannot_take_its_files_is_gone(
    ground: Ground, ahead: int
) -> None:
    """The caller reads which file and why, and nothing is left of the sandbox."""
    contents = Contents([(b"big", bytes(1 << 20))], {"TOKEN": VALUE})
    limits = {"workspace": 512 << 10}
    capacity = Capacity(100, Bounds(ahead, ahead))
    async with opened(ground, capacity=capacity, limits=limits) as sessions:
        await until(lambda: sum(sessions.pools.ready.values()) == ahead)
        waiting = {*ground.left()}
        with pytest.raises(BindingRefusedError, match="file 'big': ") as caught:
            await sessions.create(order(contents=contents))
        assert caught.value.metadata == {"fault": "NO_SPACE"}
        assert len(sessions) == 0
        await until(lambda: not waiting & {*ground.left()})
        if not ahead:
            assert ground.left() == []


async def test_a_sandbox_killed_from_outside_ends_its_session(ground: Ground) -> None:
    """At once, with nothing of it left, and everybody told."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        family = processes(made)
        async with aclosing(sessions.feed.watch()) as events:
            await anext(events)
            os.kill(family[0].pid, signal.SIGKILL)
            async with asyncio.timeout(2):
                told = await anext(events)
        assert isinstance(told, Changed)
        assert told.session.state is State.ENDED
        await gone(*family)
        await until(lambda: ground.left() == [])
        with pytest.raises(SessionExpiredError) as caught:
            await sessions.find(made.session_id)
    assert caught.value.metadata["ended_by"] == "fault"
    assert caught.value.metadata["last_fault"] == "SANDBOX_UNREACHABLE"


async def test_a_runner_that_breaks_ends_its_session(ground: Ground) -> None:
    """At once, and by its own name: PicoD tells before it goes."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        family = processes(made)
        async with aclosing(sessions.feed.watch()) as events:
            await anext(events)
            os.kill(family[1].pid, signal.SIGKILL)
            async with asyncio.timeout(2):
                told = await anext(events)
        assert isinstance(told, Changed)
        assert told.session.last_fault == "RUNNER_FAULT"
        await gone(*family)


async def test_identities_are_renewed_while_calls_run(ground: Ground) -> None:
    """Three leaves in some seconds, each proven by the Router; no call fails."""
    ground.svid_life = ground.svid_life / 360  # 10 s, as the first start may take some
    seen: list[str] = []
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        async with ground.identities.running(), asyncio.timeout(60):
            while len(set(seen)) < 3:
                async with ground.picod(made.address, made.spiffe_id, seen) as stub:
                    await stub.Stat(STAT, metadata=METADATA, timeout=20)
                assert await ground.run(made, "echo", "hi") == ("hi\n", 0)
    assert not ground.identities.failures


async def test_an_adopted_sandbox_is_renewed_at_once(ground: Ground) -> None:
    """Nobody knows how old the identity is that an earlier process handed over."""
    seen: list[str] = []
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        async with ground.picod(made.address, made.spiffe_id, seen) as stub:
            await stub.Stat(STAT, metadata=METADATA, timeout=20)
    async with opened(ground), ground.identities.running():
        await until(lambda: ground.identities.renewals)
        async with ground.picod(made.address, made.spiffe_id, seen) as stub:
            await stub.Stat(STAT, metadata=METADATA, timeout=20)
    assert len(set(seen)) == 2


async def test_sandboxes_learn_of_new_roots_of_the_services(ground: Ground) -> None:
    """The Router's domain rolls its CA over; no file is read for that anywhere."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        async with ground.identities.running():
            ground.services = Forge("cluster.local")
            ground.identities.refresh()
            await until(lambda: ground.identities.renewals)
            assert await ground.run(made, "echo", "hi") == ("hi\n", 0)


async def test_an_identity_lies_on_no_disk(ground: Ground) -> None:
    """Neither the first nor a later one; nor in a command line or environment."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        async with ground.identities.running():
            ground.identities.resume(
                made.sandbox_id,
                ground.identities.name(made.sandbox_id),
                ground.identities._holders[made.sandbox_id].deliver,
            )
            await until(lambda: ground.identities.renewals)
        picod = processes(made)[0]
        for each in processes(made):
            assert "memfd:identity" not in _opened_by(each)
        assert "PRIVATE KEY" not in f"{picod.cmdline()} {picod.environ()}"
        for path in ground.folder.rglob("*"):
            if path.is_file():
                assert b"PRIVATE KEY" not in path.read_bytes(), path


def _opened_by(process: psutil.Process) -> str:
    """Return where the descriptors of a process lead."""
    folder = Path(f"/proc/{process.pid}/fd")
    return " ".join(str(each.readlink()) for each in folder.iterdir())


async def test_the_next_process_adopts_what_lives(ground: Ground) -> None:
    """Sandboxes outlive their WorkloadManager: same process, same files, same terms."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
        await ground.run(made, "sh", "-c", "echo kept > file")
    family = processes(made)
    async with opened(ground) as sessions:
        found = await sessions.find(made.session_id)
        assert found.expires_at == made.expires_at
        assert await ground.run(found, "cat", "file") == ("kept\n", 0)
        assert processes(found)[0].pid == family[0].pid
        os.kill(family[0].pid, signal.SIGKILL)  # it is watched as ever
        await until(lambda: len(sessions) == 0)
    assert ground.left() == []


async def test_what_died_meanwhile_is_reaped(ground: Ground) -> None:
    """Its session ends with a fault, its folder goes, its user is free again."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
    family = processes(made)
    os.kill(family[0].pid, signal.SIGKILL)
    await gone(*family)
    async with opened(ground) as sessions:
        with pytest.raises(SessionExpiredError) as caught:
            await sessions.find(made.session_id)
        assert caught.value.metadata["ended_by"] == "fault"
    assert ground.left() == []


async def test_an_impostor_is_not_adopted(ground: Ground) -> None:
    """Somebody else behind the control socket is not the sandbox, whatever it says."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
    place = Place.read(made.sandbox_id, made.record)
    place.control.unlink()
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(str(place.control))
        impostor.listen()
        async with opened(ground) as sessions:
            with pytest.raises(SessionExpiredError):
                await sessions.find(made.session_id)
    assert ground.left() == []


async def test_folders_of_nobody_are_swept(ground: Ground) -> None:
    """With the processes in them; what is no sandbox is left alone."""
    async with opened(ground) as sessions:
        made = await sessions.create(order())
    family = processes(made)
    for path in (ground.folder / "state").iterdir():
        path.unlink()
    (ground.plan.runtime / "other").mkdir()
    async with opened(ground):
        await gone(*family)
    assert ground.left() == ["other"]


async def test_a_sandbox_that_cannot_start_leaves_nothing(ground: Ground) -> None:
    """An interpreter that is not there: a clear error, the reason in the log."""
    async with opened(ground, python="/no/such/python") as sessions:
        with pytest.raises(SandboxStartError) as caught:
            await sessions.create(order())
        assert "status 78" in caught.value.detail
        assert str(caught.value) == "the sandbox did not start"  # no path for callers
        assert ground.left() == []
        assert sessions.page().sessions == []
    logs = list(ground.plan.logs.iterdir())
    assert "/no/such/python" in logs[0].read_text()


async def test_a_caller_who_vanishes_leaves_no_process(ground: Ground) -> None:
    """However far the making had come."""
    async with opened(ground) as sessions:
        for patience in (0.0, 0.02, 0.1):
            async with asyncio.TaskGroup() as tasks:
                caller = tasks.create_task(sessions.create(order()))
                await until(ground.left)
                await SYSTEM.sleep(patience)
                caller.cancel()
            await until(lambda: ground.left() == [])
    await until(lambda: not logging_into(ground.folder))


async def test_without_isolation_nothing_escapes_its_end_either(
    ground: Ground,
) -> None:
    """Level none: daemons that left session and parents still end with the sandbox."""
    daemon = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    async with opened(ground, isolation="none") as sessions:
        made = await sessions.create(order())
        assert made.isolation is not None
        assert made.isolation.level == "none"
        await ground.run(made, "/usr/bin/python3", "-c", daemon)
        family = processes(made)
        await sessions.delete(made.session_id)
        assert not any(Mark.of(each.pid) for each in family)
    assert ground.left() == []
    assert not [
        each
        for each in psutil.process_iter(["cmdline"])
        if "time.sleep(600)" in " ".join(each.info["cmdline"] or ())
    ]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for users of their own")
async def test_each_sandbox_has_its_own_user(ground: Ground) -> None:
    """From the range, never shared, given back at the end; none left: a clear error."""
    engine = ground.engine()
    engine._uids = Uids((61_500, 61_501), begin=first, busy=engine._registry.users)
    async with opened(ground, engine) as sessions:
        one = await sessions.create(order())
        two = await sessions.create(order())
        levels = [each.isolation for each in (one, two)]
        assert [each.uid for each in levels if each] == [61_500, 61_501]
        assert psutil.Process(processes(one)[-1].pid).uids().real == 61_500
        with pytest.raises(PoolExhaustedError):
            await sessions.create(order())
        await sessions.delete(one.session_id)
        three = await sessions.create(order())
        assert three.isolation is not None
        assert three.isolation.uid == 61_500
