"""Files in a real sandbox: everyday work, hostile paths, and bounds."""

from __future__ import annotations

import asyncio
import os
import resource
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from picod._errors import (
    FileError,
    FileExistsInSandboxError,
    FilePermissionError,
    FileTooLargeError,
    FolderNotEmptyError,
    InvalidPathError,
    InvalidRequestError,
    IsAFolderError,
    MissingFileError,
    NoSpaceError,
    NotAFolderError,
    NotARegularFileError,
    PathOutsideWorkspaceError,
    SizeMismatchError,
)
from picod._runner import (
    Command,
    FileInfo,
    FileType,
    Limits,
    Mode,
    Open,
    Output,
)
from tests.picod.sandboxes import python, read, run, sandbox, singly, write

if TYPE_CHECKING:
    from picod._runner import Runner

MIB = 1024 * 1024


async def names(runner: Runner, path: bytes = b".") -> list[bytes]:
    listed = runner.list_directory(path)
    return [entry.name async for batch in listed for entry in batch]


async def test_writes_and_reads_back(runner: Runner) -> None:
    """What was uploaded is what commands and readers see."""
    data = os.urandom(3 * MIB + 17)
    await write(runner, b"data.bin", data)
    assert await read(runner, b"data.bin") == data
    assert await read(runner, b"/workspace/data.bin", 100, 50) == data[100:150]
    assert await read(runner, b"data.bin", len(data) - 5) == data[-5:]
    assert await read(runner, b"data.bin", len(data) + 5) == b""
    counted = await run(runner, "wc", "-c", "data.bin")
    assert int(counted.stdout.split()[0]) == len(data)


async def test_tells_what_a_file_is(runner: Runner) -> None:
    """Stat tells kind, size, mode and a symlink's target without following it."""
    await write(runner, b"file", b"12345", permissions=0o640)
    await run(runner, "sh", "-c", "ln -s file link; mkfifo fifo; mkdir folder")
    info = await runner.stat(b"file")
    assert (info.name, info.path) == (b"file", b"/workspace/file")
    assert (info.type, info.size, info.mode) == (FileType.REGULAR, 5, 0o640)
    assert info.modified_ns > 1.7e18
    link = await runner.stat(b"link")
    assert (link.type, link.symlink_target) == (FileType.SYMLINK, b"file")
    assert (await runner.stat(b"fifo")).type is FileType.OTHER
    assert (await runner.stat(b"folder/.")).type is FileType.DIRECTORY
    assert (await runner.stat(b"folder/..")).path == b"/workspace"


async def test_any_name_works(runner: Runner) -> None:
    """Names of any bytes survive writing, listing, reading, moving and removing."""
    hostile = [
        b"new\nline",
        b"\xff\xfe",
        b"-rf",
        b" ",
        b"\x1b[2J",
        "ü".encode(),
        b"x" * 255,
    ]
    for name in hostile:
        await write(runner, name, name)
    assert await names(runner) == sorted(hostile)
    for name in hostile:
        assert await read(runner, name) == name
        moved = await runner.move(name, b"moved")
        assert moved.name == b"moved"
        await runner.remove(b"moved")
    assert await names(runner) == []


async def test_modes_of_writing(runner: Runner) -> None:
    """CREATE refuses, TRUNCATE replaces and keeps the mode, the others go in place."""
    await write(runner, b"a", b"first", mode=Mode.CREATE, permissions=0o755)
    with pytest.raises(FileExistsInSandboxError):
        await write(runner, b"a", b"again", mode=Mode.CREATE)
    await write(runner, b"a", b"second", mode=Mode.TRUNCATE)
    assert (await runner.stat(b"a")).mode == 0o755
    await write(runner, b"a", b"-end", mode=Mode.APPEND)
    await write(runner, b"a", b"SEC", mode=Mode.AT_OFFSET, offset=0)
    assert await read(runner, b"a") == b"SECond-end"
    await write(runner, b"b", b"new", mode=Mode.APPEND)
    assert (await runner.stat(b"b")).mode == 0o644
    with pytest.raises(MissingFileError):
        await write(runner, b"c", b"x", mode=Mode.AT_OFFSET, offset=0)


async def test_missing_parents_are_made_if_asked(runner: Runner) -> None:
    """`make_parents` makes what is missing; without it the path is not found."""
    with pytest.raises(MissingFileError):
        await write(runner, b"x/y/z", b"")
    await write(runner, b"x/y/z", b"", make_parents=True)
    made = await runner.make_directory(b"p/q", make_parents=True, permissions=0o700)
    assert (made.type, made.mode) == (FileType.DIRECTORY, 0o700)
    assert (await runner.make_directory(b"p/q", make_parents=True)).mode == 0o700
    with pytest.raises(FileExistsInSandboxError):
        await runner.make_directory(b"p/q")
    with pytest.raises(NotAFolderError):
        await write(runner, b"x/y/z/w", b"", make_parents=True)


@pytest.mark.parametrize("mode", [Mode.CREATE, Mode.TRUNCATE])
@pytest.mark.parametrize("sent", [0, 1, 3 * MIB])
async def test_an_upload_that_stops_changes_nothing(
    runner: Runner, mode: Mode, sent: int
) -> None:
    """Wherever an upload is given up, no file appears, changes or is left hidden."""
    if mode is Mode.TRUNCATE:
        await write(runner, b"file", b"old")
    before = await names(runner)
    async with runner.write_file(Open(b"file", mode)) as upload:
        await upload.write(b"x" * sent)
    async with runner.write_file(Open(b"file", mode)) as upload:
        await upload.write(b"x" * sent)
        with pytest.raises(SizeMismatchError):
            await upload.commit(sent + 1)
    assert await names(runner) == before
    if before:
        assert await read(runner, b"file") == b"old"


async def test_readers_never_see_half_an_upload(runner: Runner) -> None:
    """Until the commit readers get the old content, afterwards the new one."""
    await write(runner, b"file", b"old")
    async with runner.write_file(Open(b"file", Mode.TRUNCATE)) as upload:
        await upload.write(b"new" * 100_000)
        assert await read(runner, b"file") == b"old"
        info = await upload.commit(300_000)
    assert info.size == 300_000
    assert await read(runner, b"file") == b"new" * 100_000


OUTSIDE = [
    b"/etc/passwd",
    b"/etc/shadow",
    b"/",
    b"..",
    b"../etc/passwd",
    b"a/../../etc/passwd",
    b"/workspace/../etc/passwd",
    b"/workspacex",
    b"/proc/self/environ",
    b"/proc/1/fd/1",
    b"to-shadow",
    b"to-root/etc/passwd",
    b"to-self/environ",
    b"up/etc/passwd",
]


@pytest.mark.parametrize("path", OUTSIDE)
async def test_paths_outside_are_refused(runner: Runner, path: bytes) -> None:
    """No verb reaches beyond the workspace, by `..` or by symlink."""
    links = (
        "ln -s /etc/shadow to-shadow; ln -s / to-root; ln -s /proc/self to-self;"
        "ln -s .. up; mkdir a"
    )
    await run(runner, "sh", "-c", links)
    for attempt in (
        lambda: read(runner, path),
        lambda: names(runner, path),
        lambda: write(runner, path, b"", mode=Mode.TRUNCATE),
        lambda: write(runner, path, b"", mode=Mode.APPEND),
        lambda: runner.make_directory(path, make_parents=True),
    ):
        with pytest.raises(PathOutsideWorkspaceError):
            await attempt()
    if not path.startswith(b"to-shadow"):
        with pytest.raises(PathOutsideWorkspaceError):
            await runner.stat(path)
        with pytest.raises(PathOutsideWorkspaceError):
            await runner.remove(path, recursive=True)
        with pytest.raises(PathOutsideWorkspaceError):
            await runner.move(path, b"here")
        await write(runner, b"file", b"")
        with pytest.raises(PathOutsideWorkspaceError):
            await runner.move(b"file", path, replace=True)


async def test_links_within_are_followed(runner: Runner) -> None:
    """Relative and absolute symlinks within workspace and /tmp lead where they say."""
    links = (
        "mkdir a; ln -s ../b a/one; ln -s /workspace/a/one two;"
        "ln -s ../tmp/x three; ln -s four four"
    )
    await run(runner, "sh", "-c", links)
    await write(runner, b"two", b"through two links")
    assert await read(runner, b"b") == b"through two links"
    assert (await runner.stat(b"two")).type is FileType.SYMLINK
    await write(runner, b"three", b"scratch")
    assert await read(runner, b"/tmp/x") == b"scratch"
    with pytest.raises(InvalidPathError, match="too many"):
        await read(runner, b"four")
    with pytest.raises(FileExistsInSandboxError):
        await write(runner, b"two", b"", mode=Mode.CREATE)


async def test_swapping_folders_for_links_gains_nothing(runner: Runner) -> None:
    """Code that swaps a folder for a symlink meanwhile never leads us outside."""
    code = """
import os
os.makedirs("a/self"); os.symlink("/proc", "b")
os.close(os.open("a/self/environ", os.O_CREAT))
print("ready", flush=True)
while True:
    os.rename("a", "c"); os.rename("b", "a")
    os.rename("a", "b"); os.rename("c", "a")
"""
    argv = ("/usr/bin/python3", "-c", code)
    async with aclosing(singly(runner.execute(Command(argv)))) as events:
        async for event in events:
            if isinstance(event, Output):
                break
        for _ in range(300):
            try:
                assert await read(runner, b"a/self/environ") == b""
            except FileError:
                continue
    assert runner.fault is None


@pytest.mark.parametrize("path", [b"fifo", b"socket", b"to-fifo"])
async def test_special_files_are_refused(runner: Runner, path: bytes) -> None:
    """A FIFO or a socket is refused at once by every verb that opens; nothing hangs."""
    code = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('socket')"
    await python(runner, code)
    await run(runner, "sh", "-c", "mkfifo fifo; ln -s fifo to-fifo")
    async with asyncio.timeout(10):
        with pytest.raises(NotARegularFileError):
            await read(runner, path)
        for mode in (Mode.TRUNCATE, Mode.APPEND, Mode.AT_OFFSET):
            with pytest.raises(NotARegularFileError):
                await write(runner, path, b"x", mode=mode)


async def test_wrong_kinds_are_named(runner: Runner) -> None:
    """A folder where a file is needed, and the reverse, get errors of their own."""
    await runner.make_directory(b"folder")
    await write(runner, b"file", b"")
    with pytest.raises(IsAFolderError):
        await read(runner, b"folder")
    with pytest.raises(IsAFolderError):
        await write(runner, b"folder", b"")
    with pytest.raises(IsAFolderError):
        await write(runner, b".", b"")
    with pytest.raises(NotAFolderError):
        await names(runner, b"file")
    with pytest.raises(MissingFileError):
        await runner.stat(b"missing")
    with pytest.raises(FileError):
        await runner.make_directory(b".")


@pytest.mark.parametrize("path", [b"", b"a\0b", b"x" * 256, b"a/" * 3000])
async def test_what_is_no_path_is_refused(runner: Runner, path: bytes) -> None:
    """Empty, endless and NUL-holding paths are refused as such."""
    with pytest.raises(InvalidPathError):
        await write(runner, path, b"")


async def test_offsets_beyond_all_files_are_refused(runner: Runner) -> None:
    """No offset or length, however large, hurts the runner."""
    await write(runner, b"file", b"x")
    assert await read(runner, b"file", 2**62) == b""
    with pytest.raises(InvalidRequestError):
        await read(runner, b"file", 2**63)
    with pytest.raises(InvalidRequestError):
        await read(runner, b"file", 0, 2**64 - 1)
    with pytest.raises(FileTooLargeError):
        await write(runner, b"file", b"x", mode=Mode.AT_OFFSET, offset=2**62)


async def test_modes_are_respected(runner: Runner) -> None:
    """A file whose mode forbids it is neither read nor written."""
    await write(runner, b"closed", b"x", permissions=0o100)
    with pytest.raises(FilePermissionError):
        await read(runner, b"closed")
    with pytest.raises(FilePermissionError):
        await write(runner, b"closed", b"x", mode=Mode.APPEND)


async def test_moves(runner: Runner) -> None:
    """Move renames files and folders, and replaces only when asked."""
    await write(runner, b"a", b"a")
    await write(runner, b"b", b"b")
    with pytest.raises(FileExistsInSandboxError):
        await runner.move(b"a", b"b")
    assert (await runner.move(b"a", b"b", replace=True)).path == b"/workspace/b"
    assert await read(runner, b"b") == b"a"
    await runner.make_directory(b"d")
    await runner.move(b"b", b"d/c")
    await runner.move(b"d", b"e")
    assert await read(runner, b"e/c") == b"a"
    with pytest.raises(MissingFileError):
        await runner.move(b"d", b"f")
    with pytest.raises(InvalidPathError):
        await runner.move(b"e", b"/tmp/e")
    with pytest.raises(InvalidPathError):
        await runner.move(b"e", b"e/f")
    with pytest.raises(InvalidPathError):
        await runner.move(b"/workspace", b"/tmp/w")


async def test_removes(runner: Runner) -> None:
    """Remove deletes what was named, never through a symlink, never the workspace."""
    await run(
        runner, "sh", "-c", "mkdir -p a/b keep; echo x > keep/x; ln -s ../keep a/link"
    )
    with pytest.raises(FolderNotEmptyError):
        await runner.remove(b"a")
    await runner.remove(b"a", recursive=True)
    await run(runner, "sh", "-c", "ln -s keep link")
    await runner.remove(b"link", recursive=True)
    assert await read(runner, b"keep/x") == b"x\n"
    assert await names(runner) == [b"keep"]
    with pytest.raises(InvalidPathError):
        await runner.remove(b".", recursive=True)


@pytest.mark.slow
async def test_removes_the_unremovable(runner: Runner) -> None:
    """Deep trees, closed folders, many entries go away, and others get their turn."""
    code = """
import os
os.mkdir("t"); os.chdir("t")
for i in range(3000):
    os.mkdir(f"{i:04}-{'x' * 100}"); os.chdir(f"{i:04}-{'x' * 100}")
os.chdir("/workspace/t")
for i in range(10000): os.close(os.open(f"f{i}", os.O_CREAT))
os.makedirs("c/d/e"); os.close(os.open("c/d/e/f", os.O_CREAT))
os.chmod("c/d/e", 0); os.chmod("c/d", 0); os.chmod("c", 0o500)
"""
    assert (await python(runner, code)).code == 0
    async with asyncio.timeout(60):
        await asyncio.gather(
            runner.remove(b"t", recursive=True), run(runner, "sleep", "0.01")
        )
    assert await names(runner) == []


@pytest.mark.slow
async def test_lists_large_folders_in_batches(runner: Runner) -> None:
    """Five thousand entries come sorted, in batches of at most a thousand."""
    code = "import os\nfor i in range(5000): os.close(os.open(f'{i:04}', os.O_CREAT))"
    await python(runner, code)
    batches = [batch async for batch in runner.list_directory(b".")]
    assert max(map(len, batches)) <= 1000
    listed = [entry.name for batch in batches for entry in batch]
    assert listed == [b"%04d" % number for number in range(5000)]


@pytest.mark.slow
async def test_a_full_disk_is_told() -> None:
    """A full workspace refuses an upload with its own error and leaves no rest."""
    async with sandbox(limits=Limits(workspace=2 * MIB, scratch=2 * MIB)) as small:
        await write(small, b"kept", b"kept")
        with pytest.raises(NoSpaceError):
            await write(small, b"big", b"x" * 3 * MIB)
        assert await names(small) == [b"kept"]
        filled = await run(
            small, "dd", "if=/dev/zero", "of=/tmp/full", "bs=1M", "count=3"
        )
        assert b"No space" in filled.stderr
        await write(small, b"more", b"x" * MIB)
        with pytest.raises(NoSpaceError):
            await write(small, b"more", b"x" * MIB, mode=Mode.APPEND)
        assert await read(small, b"kept") == b"kept"


@pytest.mark.slow
async def test_a_file_has_a_largest_size() -> None:
    """An upload beyond the largest file is refused; one that just fits is not."""
    async with sandbox(limits=Limits(file_size=MIB)) as small:
        await write(small, b"fits", b"x" * MIB)
        with pytest.raises(FileTooLargeError):
            await write(small, b"big", b"x" * (MIB + 1))
        with pytest.raises(FileTooLargeError):
            await write(small, b"fits", b"x", mode=Mode.APPEND)
        written = await run(small, "dd", "if=/dev/zero", "of=f", "bs=1M", "count=2")
        assert written.code != 0


@pytest.mark.slow
async def test_a_gibibyte_takes_no_memory() -> None:
    """A file of 1 GiB goes in and out while our own memory stays flat."""
    limits = Limits(workspace=1100 * MIB, memory=2048 * MIB)
    async with sandbox(limits=limits) as runner:
        chunk = b"x" * MIB
        async with runner.write_file(Open(b"big", Mode.CREATE)) as upload:
            for _ in range(16):
                await upload.write(chunk)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(1008):
                await upload.write(chunk)
            assert (await upload.commit(1024 * MIB)).size == 1024 * MIB
        size = 0
        async for part in runner.read_file(b"big"):
            size += 0 if isinstance(part, FileInfo) else len(part)
        assert size == 1024 * MIB
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert after - before < 32 * 1024  # KiB


async def test_a_reader_who_leaves_ends_the_reading(runner: Runner) -> None:
    """A download given up in the middle leaves nothing open inside."""
    await write(runner, b"big", b"x" * 5 * MIB)
    for _ in range(20):
        async with aclosing(runner.read_file(b"big")) as parts:
            async for part in parts:
                if isinstance(part, bytes):
                    break
    assert len(await read(runner, b"big")) == 5 * MIB
