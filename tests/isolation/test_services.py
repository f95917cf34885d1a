"""From inside a sandbox of a real PicoD: its secrets, its doors, other services."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest

from cubemesh.v1 import picod_pb2
from tests.isolation.levels import LEVELS, need_gvisor
from tests.isolation.test_escape import PRELUDE
from tests.picod.process import METADATA, PicoD
from tests.picod.test_jwt import Router, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cubemesh.v1.picod_pb2_grpc import PicoDAsyncStub

    Metadata = tuple[tuple[str, str | bytes], ...]

pytestmark = pytest.mark.slow


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    if request.param == "gvisor":
        need_gvisor()
    return str(request.param)


@pytest.fixture(params=["mtls", "jwt"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def picod(level: str, mode: str) -> Iterator[tuple[PicoD, Metadata]]:
    made = PicoD(mode, "--isolation", level)
    metadata: Metadata = METADATA
    if mode == "jwt":
        metadata = shown(Router.of(made.folder).token())
    with made:
        yield made, metadata


@asynccontextmanager
async def opened(picod: PicoD, mode: str) -> AsyncIterator[PicoDAsyncStub]:
    """Open the data door as the Router."""
    await picod.bind()
    async with picod.plain() if mode == "jwt" else picod.routed() as stub:
        yield stub


async def attempts(stub: PicoDAsyncStub, metadata: Metadata, code: str) -> None:
    """Try *code* inside; something must have been tried, and nothing reached."""
    argv = ["/usr/bin/python3", "-I", "-c", PRELUDE + code]
    request = picod_pb2.ExecuteRequest(argv=argv)
    call = stub.Execute(request, metadata=metadata)
    output = b"".join([e.output.data async for each in call for e in each.events])
    assert b"refused" in output
    assert b"ESCAPED" not in output, output
    assert b"Traceback" not in output, output


async def test_what_picod_holds(picod: tuple[PicoD, Metadata], mode: str) -> None:
    """Its key, token keys, folder, sockets, memory and environment are out of reach."""
    made, metadata = picod
    pid = made.process.pid
    paths = [made.data, made.control, made.log, made.folder / "own" / "key.pem"]
    paths += [made.folder / "own" / "svid.pem", made.folder / "public.json"]
    paths += [made.folder / "private.json"]
    async with opened(made, mode) as stub:
        await attempts(
            stub,
            metadata,
            f"""
for path in {[str(path) for path in paths]}:
    for root in ("", "/proc/1/root", "/proc/self/root", "/proc/{pid}/root"):
        attempt(f"read {{root}}{{path}}", lambda: open(root + path, "rb").read())
        attempt(f"link {{path}}", lambda: os.link(root + path, "/workspace/stolen"))
        attempt(f"dial {{path}}",
                lambda: socket.socket(socket.AF_UNIX).connect(root + path))
for name in ("mem", "environ", "maps", "fd/0", "cmdline", "root", "cwd"):
    attempt(f"PicoD's {{name}}", lambda: open(f"/proc/{pid}/{{name}}", "rb").read(9))
attempt("signal", lambda: os.kill({pid}, 0))
held = [os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{{n}}")]
for what in held:
    if "socket" in what or "svid" in what or "key" in what:
        print("ESCAPED inherited", what)
for pid in others():
    attempt(f"memory of {{pid}}", lambda: open(f"/proc/{{pid}}/mem", "rb").read(1))
    attempt(f"environ of {{pid}}", lambda: open(f"/proc/{{pid}}/environ").read())
text = " ".join(open(f"/proc/{{pid}}/cmdline").read() for pid in others())
for word in ("--mtls-key-file", "--sandbox-id", "picod-"):
    if word in text:
        print("ESCAPED command line", word)
""",
        )


async def test_other_services(picod: tuple[PicoD, Metadata], mode: str) -> None:
    """Neither the WorkloadManager nor the Router nor metrics can be dialled."""
    made, metadata = picod
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as router,
        closing(socket.create_server(("::1", 0), family=socket.AF_INET6)) as metrics,
        closing(socket.socket(socket.AF_UNIX)) as manager,
        closing(socket.socket(socket.AF_UNIX)) as lease,
    ):
        at = made.folder / "wm.sock"
        manager.bind(str(at))
        manager.listen()
        lease.bind("\0cubemesh-test-service")
        lease.listen()
        ports = [router.getsockname()[1], metrics.getsockname()[1]]
        async with opened(made, mode) as stub:
            await attempts(
                stub,
                metadata,
                f"""
for port in {ports}:
    for host in ("127.0.0.1", "::1", "localhost", "169.254.169.254", "192.0.2.2"):
        attempt(f"{{host}}:{{port}}",
                lambda: socket.create_connection((host, port), 1))
for path in ({str(at)!r}, "\\0cubemesh-test-service"):
    attempt(f"{{path!r}}", lambda: socket.socket(socket.AF_UNIX).connect(path))
""",
            )
