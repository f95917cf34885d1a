"""A real PicoD that is handed its identity, the first one and all that follow."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from cubemesh.v1 import picod_pb2, picod_pb2_grpc
from picod._identity import begin_handed
from serving import FatalError
from tests.fakes import FakeClock
from tests.forge import Forge
from tests.picod.fake_work import error_info
from tests.picod.process import METADATA, ROUTER, SANDBOX, PicoD, identity, stat
from tests.picod.test_process import _ticks as ticks
from tlsloader import MaterialError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.forge import Svid

    Renew = Callable[[Svid], Awaitable[int]]

pytestmark = pytest.mark.slow
OTHER = "sbx-" + "c" * 26


@pytest.fixture
def picod() -> Iterator[PicoD]:
    with PicoD("handed") as process:
        yield process


@asynccontextmanager
async def renewing(picod: PicoD) -> AsyncIterator[Renew]:
    """Yield what hands a new identity to *picod* and returns its generation."""
    async with picod.controlled() as control:

        async def renew(svid: Svid) -> int:
            request = picod_pb2.RenewRequest(identity=picod.handed(svid))
            return (await control.Renew(request)).generation

        yield renew


async def refusal(renewal: Awaitable[int]) -> tuple[str, str]:
    """Return code and reason of a renewal that must be refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await renewal
    code, _, reason = error_info(caught.value)
    assert "PRIVATE" not in (caught.value.details() or "")
    return code.name, reason


def descriptors(pid: int) -> list[str]:
    """Return where the descriptors of a process lead."""
    return [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115


async def test_serves_by_what_it_is_handed(picod: PicoD) -> None:
    """The Router proves it, and of its key nothing is found outside of its memory."""
    await picod.bind()
    async with picod.routed() as stub:
        await stub.Stat(stat(), metadata=METADATA)
    for pid in (picod.process.pid, *(each.pid for each in picod.inside)):
        assert not [each for each in descriptors(pid) if "memfd:identity" in each]
    for path in picod.folder.rglob("*"):
        if path.is_file():
            assert b"PRIVATE KEY" not in path.read_bytes(), path


async def test_is_renewed_while_calls_run(picod: PicoD) -> None:
    """Over the control door; running streams go on, new calls find the new one."""
    await picod.bind()
    svid = picod.sandboxes.svid(identity())
    async with picod.routed() as stub, renewing(picod) as renew:
        running = ticks(stub)
        await anext(running)
        assert await renew(svid) == 2
        await anext(running)
        await stub.Stat(stat(), metadata=METADATA)
        await anext(running)
        await running.aclose()
    assert picod.records("identity loaded")[-1]["leaf_sha256"] == svid.leaf_sha256


async def test_new_roots_of_the_services_are_followed(picod: PicoD) -> None:
    """A Router of a withdrawn root is refused from then on, without any file."""
    await picod.bind()
    old, picod.mesh = picod.mesh, Forge("cluster.local")
    async with renewing(picod) as renew:
        assert await renew(picod.sandboxes.svid(identity())) == 2
    async with picod.routed() as stub:
        await stub.Stat(stat(), metadata=METADATA)
    picod.mesh = old
    async with picod.routed() as stub:
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Stat(stat(), metadata=METADATA, timeout=5)
    await picod.logged("peer refused")


async def test_refuses_what_is_no_good(picod: PicoD) -> None:
    """The WorkloadManager reads why, and the last good identity stays in use."""
    await picod.bind()
    svid = picod.sandboxes.svid
    bad = {
        "other_identity": svid(identity(OTHER)),
        "expired": svid(identity(), life=-1),
        "untrusted_chain": Forge("sandbox.cluster.local").svid(identity()),
    }
    async with renewing(picod) as renew, picod.controlled() as control:
        for each in bad.values():
            told = await refusal(renew(each))
            assert told == ("INVALID_ARGUMENT", "IDENTITY_REFUSED")
        status = (await control.Status(picod_pb2.StatusRequest())).identity
    assert (status.spiffe_id, status.generation) == (identity(), 1)
    assert dict(status.refusals) == dict.fromkeys(bad, 1)
    assert [each["reason"] for each in picod.records("identity kept")] == [*bad]
    async with picod.routed() as stub:
        await stub.Stat(stat(), metadata=METADATA)


async def test_status_tells_of_identity_and_refusals(picod: PicoD) -> None:
    """Which one is in use, when it ends, and whom the data door turned away."""
    svid = picod.sandboxes.svid(identity(), life=1000)
    async with renewing(picod) as renew, picod.controlled() as control:
        await renew(svid)
        async with picod.channel(own=f"{ROUTER}-not") as opened:
            stub = picod_pb2_grpc.PicoDStub(opened)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Stat(stat(), metadata=METADATA, timeout=5)
        status = await control.Status(picod_pb2.StatusRequest())
    end = svid.certificates[0].not_valid_after_utc
    assert status.identity.generation == 2
    assert status.identity.expires_at.seconds == int(end.timestamp())
    assert status.refusals["not_admitted"] >= 1


async def test_files_are_not_renewed_from_outside() -> None:
    """There is one source: who started PicoD by files has to write files."""
    with PicoD() as picod:
        async with renewing(picod) as renew:
            told = await refusal(renew(picod.sandboxes.svid(identity())))
    assert told == ("FAILED_PRECONDITION", "IDENTITY_NOT_HANDED")


def test_another_sandboxs_identity_does_not_start_it() -> None:
    """What was meant for somebody else is not used, and the words name both."""
    picod = PicoD("handed")
    with picod._descriptor() as handed:
        other = picod.handed(picod.sandboxes.svid(identity(OTHER)))
        os.write(handed[0], other.SerializeToString())
        os.lseek(handed[0], 0, os.SEEK_SET)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "picod",
                *picod.flags,
                "--identity-fd",
                f"{handed[0]}",
            ],
            cwd=Path(__file__).parents[2],
            pass_fds=handed,
            capture_output=True,
            timeout=60,
            check=False,
        )
    picod.discard()
    assert done.returncode == 78
    assert f"{identity(OTHER)} is not that of {SANDBOX}" in done.stderr.decode()


def dumps_core(argv: list[str], folder: Path, handed: list[int]) -> bool:
    """Say whether a process that crashes leaves its memory in a file."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = ("/usr/bin/prlimit", f"--core={most}:{most}", sys.executable)
    process = subprocess.Popen(
        [*limit, *argv], cwd=folder, pass_fds=handed, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGQUIT)
    _, status = os.waitpid(process.pid, 0)
    process.wait()
    process.stdout.close()
    return os.WCOREDUMP(status)


def test_a_crash_leaves_no_key_on_disk(tmp_path: Path) -> None:
    """A core file would hold all that PicoD does."""
    plain = ["-c", "import time; print(1, flush=True); time.sleep(60)"]
    if not dumps_core(plain, tmp_path, []):
        pytest.skip("no process leaves a core file here")
    picod = PicoD("handed")
    with picod._descriptor() as handed:
        flags = (*picod.flags, "--identity-fd", f"{handed[0]}")
        dumped = dumps_core(["-I", "-m", "picod", *flags], tmp_path, handed)
    picod.discard()
    assert not dumped


async def test_a_first_one_that_never_ends_is_not_waited_for() -> None:
    """Whoever holds the other end and says nothing stops nothing else."""
    reading, writing = os.pipe()
    with pytest.raises(FatalError, match="nothing came to its end") as caught:
        await begin_handed(reading, wait=0, clock=FakeClock())
    os.close(writing)
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"\xff" * 10, b"", b"x" * (5 << 20)])
async def test_a_first_one_that_is_none_is_told(data: bytes) -> None:
    """Junk, nothing, and more than an identity can be: an error, and no hang."""
    reading, writing = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as file:
            file.write(data)

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(write))
        with pytest.raises((FatalError, MaterialError)):
            await begin_handed(reading, wait=20)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


async def test_a_descriptor_that_is_none_is_told() -> None:
    """A flag without what it names ends PicoD with words."""
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(FatalError, match="cannot be read"):
        await begin_handed(reading)
