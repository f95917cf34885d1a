"""A whole mesh to measure, as `cubemesh up` starts it, and ways into it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import grpc
import grpc.aio
import psutil
from cryptography import x509

from auth import PRINCIPAL_METADATA, Principal, Signer, SigningKeys
from benchmarks._machine import services
from clock import SYSTEM
from cubemesh import Profile
from cubemesh._plan import SANDBOX_TRUST_DOMAIN, TRUST_DOMAIN
from cubemesh.v1 import workloadmanager_pb2 as wm
from cubemesh.v1.workloadmanager_pb2_grpc import WorkloadManagerStub
from tlsloader import BundlePaths, Dialer, FileSource, Paths, SpiffeID
from tlsloader.grpc import CHANNEL_OPTIONS, channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cubemesh.v1.workloadmanager_pb2_grpc import WorkloadManagerAsyncStub

__all__ = ["Direct", "Mesh", "Mode", "direct", "identity_of", "mesh", "routed"]

Mode = Literal["mtls", "jwt"]
_STARTED = 60.0
_ANSWER = 30.0


@dataclass(frozen=True, slots=True)
class Mesh:
    """A running mesh: where its profile is, and which process is which."""

    mode: Mode
    folder: Path
    supervisor: int

    @property
    def profile(self) -> Profile:
        """What a client needs to know."""
        return Profile.load(self.folder / "profile.json")

    @property
    def router(self) -> int:
        """The Router's process."""
        return self.routers[0]

    @property
    def routers(self) -> list[int]:
        """All processes of the Router: with workers there are several."""
        return [pid for room, pid in services(self.supervisor) if room == "router"]

    @property
    def manager(self) -> int:
        """The WorkloadManager's process."""
        return dict(services(self.supervisor))["workloadmanager"]

    @property
    def identity(self) -> Paths:
        """The Router's own identity, for the same call without the Router."""
        own = self.folder / "state" / "identities" / "router"
        return Paths(own / "key.pem", own / "svid.pem", self.bundle(TRUST_DOMAIN))

    @property
    def foreign(self) -> dict[str, Path]:
        """The roots of the sandboxes."""
        return {SANDBOX_TRUST_DOMAIN: self.bundle(SANDBOX_TRUST_DOMAIN)}

    def bundle(self, trust_domain: str) -> Path:
        """Where a trust domain's roots are."""
        return self.folder / "state" / "bundles" / f"{trust_domain}.pem"

    @property
    def runtime(self) -> Path:
        """Where the sandboxes' sockets are."""
        manager = psutil.Process(dict(services(self.supervisor))["workloadmanager"])
        return Path(dict(pairwise(manager.cmdline()))["--runtime"])

    def signing_keys(self) -> tuple[Path, Path]:
        """Return the Router's keys in jwt mode: private, public."""
        folder = self.folder / "state" / "router"
        return folder / "jwt-signing.json", folder / "jwt-public.json"


@asynccontextmanager
async def mesh(mode: Mode, *flags: str, **environ: str) -> AsyncIterator[Mesh]:
    """Run a mesh of its own in a temporary folder; *flags* are more for `up`.

    By *environ* its services are told more, e.g. ``CUBEMESH_ROUTER_LOG_LEVEL``.
    """
    with ExitStack() as places:
        place = tempfile.TemporaryDirectory(prefix="cubemesh-bench-")
        folder = Path(places.enter_context(place))
        profile = folder / "profile.json"
        log = folder / "up.log"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "cubemesh", "up"),
            *("--state", str(folder / "state"), "--picod-auth-mode", mode, *flags),
            env={**_environment(), **environ, "CUBEMESH_PROFILE": str(profile)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=places.enter_context(log.open("wb")),
        )
        try:
            async with asyncio.timeout(_STARTED):
                while not profile.exists():
                    if process.returncode is not None:
                        raise RuntimeError(f"no mesh: {log.read_text()}")
                    await SYSTEM.sleep(0.05)
            yield Mesh(mode, folder, process.pid)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            await process.wait()


def _environment() -> dict[str, str]:
    ours = os.environ  # noqa: TID251
    kept = {key: ours[key] for key in ("HOME", "PATH") if key in ours}
    return {**kept, "OTEL_BSP_SCHEDULE_DELAY": "200"}


@asynccontextmanager
async def routed(
    at: Mesh, address: str | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """Open a client's channel to the Router, or to *address* that shows the same."""
    profile = at.profile
    credentials = _credentials(profile)
    options = [
        *CHANNEL_OPTIONS,
        ("grpc.ssl_target_name_override", profile.server_name),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ]
    async with grpc.aio.secure_channel(
        address or profile.address, credentials, options
    ) as opened:
        yield opened


def _credentials(profile: Profile) -> grpc.ChannelCredentials:
    files = profile.ca_file, profile.key_file, profile.cert_file
    return grpc.ssl_channel_credentials(*(Path(file).read_bytes() for file in files))


@dataclass(frozen=True, slots=True)
class Direct:
    """The way to one PicoD that the Router itself takes."""

    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str | bytes], ...]
    address: str
    spiffe_id: str


@asynccontextmanager
async def direct(at: Mesh, session_id: str) -> AsyncIterator[Direct]:
    """Open the Router's way to the PicoD of a session."""
    source = await FileSource.load(at.identity, BundlePaths(at.foreign))
    told = await _ask_manager(at, source, session_id)
    caller = _caller(Path(at.profile.cert_file))
    metadata: tuple[tuple[str, str | bytes], ...]
    if at.mode == "jwt":
        keys = await SigningKeys.load(*at.signing_keys())
        token = Signer(keys).token(session_id, told.sandbox_id, caller)
        metadata = (("authorization", f"Bearer {token}"),)
        async with channel(told.address) as opened:
            yield Direct(opened, metadata, told.address, "")
        return
    metadata = ((PRINCIPAL_METADATA, caller.encode()),)
    async with _dialled(source, told.spiffe_id, told.address) as opened:
        yield Direct(opened, metadata, told.address, told.spiffe_id)


async def _ask_manager(
    at: Mesh, source: FileSource, session_id: str
) -> wm.SandboxSession:
    """Return what the Router knows of a session."""
    router = dict(pairwise(psutil.Process(at.router).cmdline()))
    identity, address = router["--workloadmanager-id"], router["--workloadmanager"]
    async with _dialled(source, identity, address) as opened:
        stub: WorkloadManagerAsyncStub = WorkloadManagerStub(opened)
        answer = await stub.GetSession(
            wm.GetSessionRequest(session_id=session_id), timeout=_ANSWER
        )
    session: wm.SandboxSession = answer.session
    return session


@asynccontextmanager
async def _dialled(
    source: FileSource, identity: str, address: str
) -> AsyncIterator[grpc.aio.Channel]:
    expected = SpiffeID.parse(identity)
    async with (
        aclosing(Dialer(source, expected=expected, address=address)) as dialer,
        channel(await dialer.start()) as opened,
    ):
        yield opened


def _caller(certificate: Path) -> Principal:
    return Principal.of(identity_of(certificate))


def identity_of(certificate: Path) -> SpiffeID:
    """Return the SPIFFE ID that *certificate* tells."""
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return SpiffeID.parse(uri)
