from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.workloadmanager.engine import ANN, BOB
from workloadmanager import _ids
from workloadmanager._errors import StateError
from workloadmanager._store import Store
from workloadmanager._values import Isolation, Session, State
from workloadmanager._writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW = datetime(2030, 1, 1, 12, 0, 0, 123000, tzinfo=UTC)
HOUR = timedelta(hours=1)


def session(**changes: object) -> Session:
    made = Session(
        session_id=_ids.session_id(),
        sandbox_id=_ids.sandbox_id(),
        namespace="default",
        template="python",
        owner=ANN,
        state=State.READY,
        created_at=NOW,
        expires_at=NOW + HOUR,
        latest_expiry=NOW + 2 * HOUR,
        idle_timeout=timedelta(milliseconds=1500),
        last_activity=NOW,
        address="unix:/x",
        spiffe_id="spiffe://a/b",
        isolation=Isolation("bwrap", 7, own_uid=True, limits={"memory": 5}),
        record='{"pid": 1}',
        last_fault="",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "s.db")
    yield store
    await store.close()


async def test_a_session_comes_back_as_it_was(store: Store) -> None:
    """Every field survives, to the millisecond."""
    made = session()
    await store.insert(made)
    assert await store.find(made.session_id) == made
    assert await store.load() == [made]
    ended = replace(
        made, state=State.ENDED, ended_at=NOW + HOUR, ended_by="idle", last_fault="X"
    )
    await store.save(ended)
    assert await store.find(made.session_id) == ended
    assert await store.find("ses-nobody") is None


async def test_files_are_ours_alone_and_hold_no_environment(
    store: Store, tmp_path: Path
) -> None:
    """Rights 0600 on the database, its log and its index; no column for secrets."""
    await store.insert(session())
    rights = {each.name: each.stat().st_mode & 0o777 for each in os.scandir(tmp_path)}
    assert rights == {"s.db": 0o600, "s.db-shm": 0o600, "s.db-wal": 0o600}
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(sessions)")}
    assert not {c for c in columns if "env" in c or "secret" in c or "proof" in c}


async def test_a_gone_session_is_not_loaded_but_still_found(store: Store) -> None:
    """Tombstones answer questions, but nothing is left to do for them."""
    made = session(state=State.ENDED, ended_at=NOW, ended_by="deleted")
    await store.insert(made)
    assert len(await store.load()) == 1
    await store.gone(made.session_id)
    assert await store.load() == []
    found = await store.find(made.session_id)
    assert found is not None
    assert found.record == ""


async def test_request_ids_belong_to_their_owner_and_age(store: Store) -> None:
    """The same word of another owner, or of yesterday, means another session."""
    made = session()
    await store.insert(made, "once")
    assert await store.find_request(ANN, "once", NOW - HOUR) == made
    assert await store.find_request(BOB, "once", NOW - HOUR) is None
    assert await store.find_request(ANN, "once", NOW) is None
    await store.release_request(made.session_id)
    assert await store.find_request(ANN, "once", NOW - HOUR) is None
    assert await store.find(made.session_id) == made


async def test_removing_leaves_nothing(store: Store) -> None:
    """A session that never came to be blocks neither its id nor its request id."""
    made = session()
    await store.insert(made, "once")
    await store.remove(made.session_id)
    assert await store.find(made.session_id) is None
    assert await store.find_request(ANN, "once", NOW - HOUR) is None


async def test_purging_takes_old_tombstones_only(store: Store) -> None:
    """The living, the young, and those whose sandbox is still there stay."""
    living = session()
    old = session(state=State.ENDED, ended_at=NOW - HOUR)
    young = session(state=State.ENDED, ended_at=NOW + HOUR)
    going = session(state=State.ENDED, ended_at=NOW - HOUR)
    for each in (living, old, young, going):
        await store.insert(each)
    for each in (old, young):
        await store.gone(each.session_id)
    assert await store.purge(NOW) == [old.sandbox_id]
    assert await store.find(old.session_id) is None
    for each in (living, young, going):
        assert await store.find(each.session_id) is not None


async def test_what_waits_is_committed_together(store: Store) -> None:
    """A hundred writes at once need a handful of transactions, not a hundred."""
    before = store.commits
    await asyncio.gather(*(store.insert(session()) for _ in range(100)))
    assert len(await store.load()) == 100
    assert store.commits - before < 20


async def test_one_bad_write_spoils_no_other(store: Store) -> None:
    """Each caller of a group hears of its own failure alone."""
    twin = session()
    await store.insert(twin)
    results = await asyncio.gather(
        store.insert(session()),
        store.insert(twin),
        store.insert(session()),
        return_exceptions=True,
    )
    assert [type(each) for each in results] == [
        type(None),
        sqlite3.IntegrityError,
        type(None),
    ]
    assert len(await store.load()) == 3


async def test_a_write_is_done_though_its_caller_went(store: Store) -> None:
    """A cancelled handler must not leave the order of writes in doubt."""
    made = session()
    store.insert(made).cancel()
    assert await store.find(made.session_id) == made


async def test_touches_are_kept(store: Store) -> None:
    """A restart does not take a busy session for an idle one."""
    made = session()
    await store.insert(made)
    await store.touch([(made.session_id, NOW + HOUR), ("ses-unknown", NOW)])
    found = await store.find(made.session_id)
    assert found is not None
    assert found.last_activity == NOW + HOUR


async def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    """We do not write into what a newer CubeMesh has made."""
    await (await Store.open(tmp_path / "s.db")).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="version 99, newer"):
        await Store.open(tmp_path / "s.db")


async def test_migrations_bring_an_older_file_forward(tmp_path: Path) -> None:
    """Each version is one script; old data stays; a broken one changes nothing."""
    path = tmp_path / "m.db"
    first = "CREATE TABLE a (x TEXT); INSERT INTO a VALUES ('kept')"
    second = "ALTER TABLE a ADD COLUMN y TEXT NOT NULL DEFAULT 'new'"
    await Writer.open(path, (first,)).close()
    with pytest.raises(StateError):
        Writer.open(path, (first, "ALTER TABLE a ADD COLUMN z TEXT; BROKEN"))
    writer = Writer.open(path, (first, second))
    rows = await writer.run(lambda c: [tuple(r) for r in c.execute("SELECT * FROM a")])
    version = await writer.run(
        lambda c: int(c.execute("PRAGMA user_version").fetchone()[0])
    )
    await writer.close()
    assert (rows, version) == ([("kept", "new")], 2)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """A broken file is told, with what to do, and left as it is."""
    path = tmp_path / "s.db"
    path.write_bytes(b"no database at all" * 100)
    path.chmod(0o600)
    with pytest.raises(StateError, match="cannot use the store"):
        await Store.open(path)
    assert path.read_bytes().startswith(b"no database")


async def test_a_store_open_to_others_is_refused(tmp_path: Path) -> None:
    """Who can write the store can give sessions away."""
    await (await Store.open(tmp_path / "s.db")).close()
    (tmp_path / "s.db").chmod(0o640)
    with pytest.raises(StateError, match="others may open"):
        await Store.open(tmp_path / "s.db")


ENDLESS = """
import asyncio, pathlib, sys
from tests.workloadmanager.test_store import session
from workloadmanager._store import Store
async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]))
    while True:
        made = session()
        await store.insert(made)
        print(made.session_id, flush=True)
asyncio.run(main())
"""


def write_until_killed(path: Path) -> set[str]:
    """Have a process write sessions, kill it, and return what it says it wrote."""
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, path], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        told += process.stdout.readlines()
    return {line.decode().strip() for line in told if line.endswith(b"\n")}


@pytest.mark.slow
async def test_committed_writes_survive_a_kill(tmp_path: Path) -> None:
    """Whatever was answered before kill -9 is there after it."""
    told = await asyncio.to_thread(write_until_killed, tmp_path / "s.db")
    store = await Store.open(tmp_path / "s.db")
    kept = {each.session_id for each in await store.load()}
    await store.close()
    assert len(told) >= 20
    assert told <= kept
