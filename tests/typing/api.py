"""Uses of the public face that only have to type-check; never run."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import assert_type

from cubemesh import (
    AsyncSandbox,
    CommandEvent,
    CommandResult,
    FileInfo,
    Profile,
    Sandbox,
    SessionInfo,
)


def blocking() -> None:
    with Sandbox.create(
        template="python", lifetime=60, idle_timeout=timedelta(minutes=1)
    ) as sandbox:
        assert_type(sandbox, Sandbox)
        assert_type(sandbox.commands.run("ls", check=True, timeout=1), CommandResult)
        assert_type(sandbox.commands.run(["ls"], env={"A": "b"}).stdout, str)
        events = sandbox.commands.stream("ls")
        assert_type(events, Generator[CommandEvent, None, None])
        assert_type(sandbox.files.write(Path("a"), b""), FileInfo)
        assert_type(sandbox.files.read(b"a"), bytes)
        assert_type(sandbox.files.list(), tuple[FileInfo, ...])
        assert_type(sandbox.files.exists("a"), bool)
        assert_type(sandbox.info(), SessionInfo)
    assert_type(Sandbox.list(), tuple[SessionInfo, ...])
    assert_type(Sandbox.get("ses-x"), SessionInfo)
    assert_type(Sandbox.connect("ses-x"), Sandbox)
    content: dict[str, bytes] = {}
    assert_type(Sandbox.create(files=content, secrets={"a": "", "b": b""}), Sandbox)
    Sandbox.create(secrets={"a": 1})  # type: ignore[dict-item]
    sandbox.commands.run(3)  # type: ignore[arg-type]
    sandbox.commands.run("ls", cheque=True)  # type: ignore[call-arg]
    sandbox.files.wriet("a", b"")  # type: ignore[attr-defined]
    Sandbox.create("python")  # type: ignore[call-arg]


async def asynchronous() -> None:
    profile = Profile("host:1", "ca", "cert", "key")
    async with await AsyncSandbox.create(profile=profile) as sandbox:
        assert_type(sandbox, AsyncSandbox)
        assert_type(await sandbox.commands.run("ls"), CommandResult)
        async for event in sandbox.commands.stream(["ls"]):
            assert_type(event, CommandEvent)
        await sandbox.commands.run("ls", on_stdout=print)
