"""The Router as a real process, between a WorkloadManager and a sandbox of ours."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import grpc

from cubemesh.v1 import workloadmanager_pb2_grpc as wm_grpc
from tests.fakes import until
from tests.forge import Forge
from tests.logs import records
from tests.router.manager import FakeManager
from tests.router.upstream import Upstream
from tlsloader import Acceptor, Allowlist, Dialer, FixedSource, SpiffeID
from tlsloader.grpc import SERVER_OPTIONS, channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cubemesh.v1 import workloadmanager_pb2 as wm

__all__ = ["ADA", "EVE", "MANAGER", "ROUTER", "SANDBOX", "Town", "town"]

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
MANAGER = "spiffe://cluster.local/ns/agentcube-system/sa/workloadmanager"
ADA = "spiffe://cluster.local/user/ada"
EVE = "spiffe://cluster.local/user/eve"
SANDBOX = "spiffe://sandbox.cluster.local/ns/agentcube-system/sandbox/sbx-1"
_REPOSITORY = Path(__file__).parents[2]


@dataclass
class Town:
    """One Router with what stands around it."""

    folder: Path
    mesh: Forge
    sandboxes: Forge
    manager: FakeManager
    sandbox: Upstream
    listen: str
    metrics: str
    log: Path
    process: asyncio.subprocess.Process

    def session(self, owner: str = ADA, **fields: Any) -> wm.SandboxSession:
        """Make a session in the one sandbox."""
        made = self.manager.add(**fields)
        made.owner.subject = owner
        made.expires_at.FromDatetime(datetime.now(UTC) + timedelta(hours=1))  # noqa: TID251 - the process goes by the system's clock
        return made

    @asynccontextmanager
    async def door(
        self, own: str = ADA, *, foreign: Forge | None = None
    ) -> AsyncIterator[grpc.aio.Channel]:
        """Open the front door as *own*, an identity of the mesh or of *foreign*."""
        async with AsyncExitStack() as stack:
            source = self.mesh.source(own)
            if foreign is not None:
                source = foreign.source(own, foreign=[self.mesh])
            yield await _dialled(stack, source, ROUTER, self.listen)

    def records(self, event: str) -> list[dict[str, Any]]:
        """Return what the Router logged under the name *event*."""
        return [each for each in records(self.log) if each["event"] == event]

    async def figures(self) -> set[str]:
        """Return the samples that Prometheus would read now."""
        text = await asyncio.to_thread(_scraped, f"http://{self.metrics}/metrics")
        return {line for line in text.splitlines() if not line.startswith("#")}

    async def logged(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until *event* was logged *count* times; return the last record."""
        await until(lambda: len(self.records(event)) >= count)
        return self.records(event)[-1]


def _scraped(url: str) -> str:
    with urlopen(url, timeout=10) as answer:  # noqa: S310 - http, to our own process
        text: str = answer.read().decode()
        return text


async def _dialled(
    stack: AsyncExitStack, source: FixedSource, expected: str, address: str
) -> grpc.aio.Channel:
    dialer = Dialer(source, expected=SpiffeID.parse(expected), address=address)
    opened = channel(await dialer.start())
    stack.push_async_callback(dialer.aclose)
    stack.push_async_callback(opened.close)
    return opened


async def behind(
    stack: AsyncExitStack,
    handler: Any,
    path: str,
    source: FixedSource | None,
    allow: str = ROUTER,
) -> str:
    """Serve *handler* at the socket *path*, as *source* (``None``: without TLS)."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    if isinstance(handler, FakeManager):
        wm_grpc.add_WorkloadManagerServicer_to_server(handler, server)
    else:
        server.add_generic_rpc_handlers((handler,))
    stack.push_async_callback(server.stop, None)
    if source is None:
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        return f"unix:{path}"
    acceptor = Acceptor(source, allow=Allowlist.parse(allow))
    server.add_insecure_port(acceptor.backend)
    stack.push_async_callback(acceptor.aclose)
    await server.start()
    return await acceptor.start(f"unix:{path}")


@asynccontextmanager
async def town(
    folder: Path,
    *flags: str,
    mode: str = "mtls",
    manager_id: str = MANAGER,
    sandbox_id: str = SANDBOX,
) -> AsyncIterator[Town]:
    """Run a Router; *manager_id* and *sandbox_id* are what those really show."""
    mesh, sandboxes = Forge("cluster.local"), Forge("sandbox.cluster.local")
    log = folder / "log"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(60))
        show = sandboxes.source(sandbox_id, foreign=[mesh]) if mode == "mtls" else None
        sandbox = Upstream()
        address = await behind(stack, sandbox, f"{folder}/s", show)
        manager = FakeManager(address=address, spiffe_id=SANDBOX)
        await behind(stack, manager, f"{folder}/m", mesh.source(manager_id))
        told = _flags(folder, mesh, sandboxes, mode)
        process = await start(stack, log, *told, *flags)
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, log.read_text()
        ready = json.loads(line)
        if manager_id == MANAGER:
            await manager.watching.wait()
        yield Town(
            folder,
            mesh,
            sandboxes,
            manager,
            sandbox,
            ready["listen"],
            ready["metrics"],
            log,
            process,
        )


def _flags(folder: Path, mesh: Forge, sandboxes: Forge, mode: str) -> Sequence[str]:
    paths = mesh.put(folder / "own", mesh.svid(ROUTER))
    bundle = folder / "sandboxes.pem"
    bundle.write_bytes(sandboxes.bundle)
    told = [
        *("--workloadmanager", f"unix:{folder}/m"),
        *("--workloadmanager-id", MANAGER),
        *("--mtls-cert-file", str(paths.chain)),
        *("--mtls-key-file", str(paths.key)),
        *("--mtls-ca-file", str(paths.bundle)),
        *("--trust-bundle", f"sandbox.cluster.local={bundle}"),
        *("--picod-auth-mode", mode),
    ]
    if mode == "jwt":
        told += ["--jwt-signing-key-file", str(folder / "private.json")]
        told += ["--jwt-public-keys-file", str(folder / "public.json")]
        told += ["--jwt-rotation", "1h"]
    return told


async def start(
    stack: AsyncExitStack, log: Path, *flags: str
) -> asyncio.subprocess.Process:
    """Start a Router that ends with *stack*; its log goes to *log*."""
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "router", *flags),
            cwd=_REPOSITORY,
            env={"GRPC_VERBOSITY": "NONE"},
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
        )
    stack.push_async_callback(_end, process)
    return process


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    await process.wait()
