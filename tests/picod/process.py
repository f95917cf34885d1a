"""PicoD as a real process, and the identities to approach it with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
import psutil

from auth import PRINCIPAL_METADATA, Principal
from clock import SYSTEM
from cubemesh.v1 import picod_pb2, picod_pb2_grpc
from tests.forge import Forge
from tests.logs import records
from tlsloader import Dialer, SpiffeID
from tlsloader.grpc import channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.forge import Svid

SANDBOX = "sbx-" + "a" * 26
SESSION = "ses-" + "b" * 26
ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
WORKLOADMANAGER = "spiffe://cluster.local/ns/agentcube-system/sa/workloadmanager"
ADA = Principal("spiffe://cluster.local", "spiffe://cluster.local/user/ada", "ada")
METADATA = ((PRINCIPAL_METADATA, ADA.encode()),)
_REPOSITORY = Path(__file__).parents[2]
_STARTED = 20.0
_ENDED = 15.0


def identity(sandbox_id: str = SANDBOX) -> str:
    """Return the one SPIFFE ID of a sandbox."""
    return f"spiffe://sandbox.cluster.local/ns/default/sandbox/{sandbox_id}"


class PicoD:
    """One PicoD with its folder; *flags* are added to those of its mode.

    Modes: ``mtls`` by files, ``handed`` (mtls, through a descriptor), ``jwt``.
    """

    def __init__(self, mode: str = "mtls", *flags: str) -> None:
        self.mesh, self.sandboxes = (
            Forge("cluster.local"),
            Forge("sandbox.cluster.local"),
        )
        self._place = tempfile.TemporaryDirectory(prefix="picod-")
        self.folder = Path(self._place.name)
        self.data, self.control = (
            self.folder / "data.sock",
            self.folder / "control.sock",
        )
        self.log, self.groups = self.folder / "log", self.folder / "groups"
        self.mode = mode
        self.flags = [*self._common(), *self._of_mode(mode), *flags]

    def handed(self, svid: Svid) -> picod_pb2.Identity:
        """Return what hands *svid* over, with the bundles of both domains."""
        return picod_pb2.Identity(
            key=svid.key,
            chain=svid.chain,
            bundle=self.sandboxes.bundle,
            foreign_bundles={"cluster.local": self.mesh.bundle},
        )

    def _common(self) -> list[str]:
        common = ["--listen", f"unix:{self.data}", "--sandbox-id", SANDBOX]
        common += ["--control-listen", f"unix:{self.control}"]
        if os.getuid() == 0:
            common += ["--uid", str(61_000 + os.getpid() % 1000)]
        return common

    def _of_mode(self, mode: str) -> list[str]:
        chosen = ["--picod-auth-mode", "jwt" if mode == "jwt" else "mtls"]
        if mode == "jwt":
            return [*chosen, "--jwt-public-keys-file", str(self.folder / "public.json")]
        if mode == "handed":
            return [*chosen, "--router-id", ROUTER]
        paths = self.sandboxes.write(self.folder / "own", identity())
        bundle = self.folder / "mesh.pem"
        bundle.write_bytes(self.mesh.bundle)
        return [
            *chosen,
            *("--router-id", ROUTER),
            *("--mtls-cert-file", str(paths.chain)),
            *("--mtls-key-file", str(paths.key)),
            *("--mtls-ca-file", str(paths.bundle)),
            *("--trust-bundle", f"cluster.local={bundle}"),
        ]

    def discard(self) -> None:
        """Remove the folder of a PicoD that is not started this way."""
        self._place.cleanup()

    def __enter__(self) -> Self:
        with self.log.open("wb") as log, self._descriptor() as handed:
            flags = [f"--identity-fd={each}" for each in handed]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "picod", *self.flags, *flags],
                cwd=_REPOSITORY,
                pass_fds=handed,
                env={"GRPC_VERBOSITY": "NONE", "PATH": os.environ["PATH"]},  # noqa: TID251
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.ready = json.loads(line)
        self.inside = psutil.Process(self.process.pid).children(recursive=True)
        return self

    @contextmanager
    def _descriptor(self) -> Iterator[list[int]]:
        """Yield the descriptor that hands over the first identity, if one does."""
        if self.mode != "handed":
            yield []
            return
        first = self.handed(self.sandboxes.svid(identity()))
        descriptor = os.memfd_create("identity")
        os.write(descriptor, first.SerializeToString())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield [descriptor]
        os.close(descriptor)

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            self.process.wait(_ENDED)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.discard()

    async def ended(self) -> int:
        """Wait for the end of the process and return its status."""
        return await asyncio.to_thread(self.process.wait, _ENDED)

    def records(self, event: str) -> list[dict[str, Any]]:
        """Return what was logged under the name *event*."""
        return [each for each in records(self.log) if each["event"] == event]

    async def logged(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until *event* was logged *count* times and return the last record."""
        await until(lambda: len(self.records(event)) >= count)
        return self.records(event)[-1]

    @asynccontextmanager
    async def controlled(
        self,
    ) -> AsyncIterator[picod_pb2_grpc.SandboxControlAsyncStub]:
        """Open the control door."""
        async with grpc.aio.insecure_channel(f"unix:{self.control}") as opened:
            yield picod_pb2_grpc.SandboxControlStub(opened)

    async def bind(self, life: float = 3600, **contents: Any) -> None:
        """Give the sandbox its session."""
        request = picod_pb2.BindRequest(
            session_id=SESSION,
            owner={"issuer": ADA.issuer, "subject": ADA.subject},  # type: ignore[arg-type]
            environment={"TOLD": "at bind"},
            **contents,
        )
        request.expires_at.FromDatetime(SYSTEM.now() + timedelta(seconds=life))
        async with self.controlled() as stub:
            await stub.Bind(request)

    @asynccontextmanager
    async def channel(
        self, *, own: str = ROUTER, expected: str = ""
    ) -> AsyncIterator[grpc.aio.Channel]:
        """Open the data door as *own*, in mtls mode."""
        source = self.mesh.source(own, foreign=[self.sandboxes])
        dialer = Dialer(
            source,
            expected=SpiffeID.parse(expected or identity()),
            address=f"unix:{self.data}",
        )
        opened = channel(await dialer.start())
        try:
            yield opened
        finally:
            await opened.close()
            await dialer.aclose()

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[picod_pb2_grpc.PicoDAsyncStub]:
        """Open the data door in jwt mode."""
        async with grpc.aio.insecure_channel(f"unix:{self.data}") as opened:
            yield picod_pb2_grpc.PicoDStub(opened)

    @asynccontextmanager
    async def routed(self) -> AsyncIterator[picod_pb2_grpc.PicoDAsyncStub]:
        """Open the data door as the Router."""
        async with self.channel() as opened:
            yield picod_pb2_grpc.PicoDStub(opened)


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Return once *condition* holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await SYSTEM.sleep(0.005)


async def denied(call: Any) -> tuple[str, str]:
    """Return the code and text that *call* ends with; it must not be served."""
    try:
        if hasattr(call, "__aiter__"):
            [_ async for _ in call]
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError("the call was served")


def stat(path: bytes = b".") -> picod_pb2.StatRequest:
    """Return a harmless request."""
    return picod_pb2.StatRequest(path=path)
