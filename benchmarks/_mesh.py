"""A whole mesh to measure, as `cubemesh up` starts it, and ways into it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack, asynccontextmanager
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
from cubemesh import AsyncSandbox, Profile
from tlsloader import BundlePaths, Dialer, FileSource, Paths, SpiffeID
from tlsloader.grpc import CHANNEL_OPTIONS, channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Direct", "Mesh", "Mode", "direct", "mesh", "routed"]

Mode = Literal["mtls", "jwt"]
_TRUST_DOMAIN = "cluster.local"
_STARTED = 60.0


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
        return dict(services(self.supervisor))["router"]

    @property
    def identity(self) -> Paths:
        """The Router's own identity, for the same call without the Router."""
        own = self.folder / "state" / "identities" / "router"
        return Paths(own / "key.pem", own / "svid.pem", self.bundle(_TRUST_DOMAIN))

    def bundle(self, trust_domain: str) -> Path:
        """Where a trust domain's roots are."""
        return self.folder / "state" / "bundles" / f"{trust_domain}.pem"

    @property
    def runtime(self) -> Path:
        """Where the sandboxes' sockets are."""
        manager = psutil.Process(dict(services(self.supervisor))["workloadmanager"])
        return Path(dict(pairwise(manager.cmdline()))["--runtime"])

    def made(self, session_id: str) -> dict[str, str]:
        """Return what the WorkloadManager has logged of a session that it made."""
        log = self.folder / "state" / "logs" / "workloadmanager.log"
        for line in log.read_text().splitlines():
            if session_id in line and '"session ready"' in line:
                return {key: str(value) for key, value in json.loads(line).items()}
        raise LookupError(session_id)

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
async def direct(at: Mesh, sandbox: AsyncSandbox) -> AsyncIterator[Direct]:
    """Open the Router's way to the PicoD of *sandbox*."""
    made = at.made(sandbox.session_id)
    caller = _caller(Path(at.profile.cert_file))
    address = f"unix:{at.runtime}/{made['sandbox_id']}/data.sock"
    if at.mode == "jwt":
        keys = await SigningKeys.load(*at.signing_keys())
        token = Signer(keys).token(sandbox.session_id, made["sandbox_id"], caller)
        metadata: tuple[tuple[str, str | bytes], ...]
        metadata = (("authorization", f"Bearer {token}"),)
        async with channel(address) as opened:
            yield Direct(opened, metadata, address, "")
        return
    expected = SpiffeID.parse(made["spiffe_id"])
    foreign = {expected.trust_domain: at.bundle(expected.trust_domain)}
    source = await FileSource.load(at.identity, BundlePaths(foreign))
    dialer = Dialer(source, expected=expected, address=address)
    try:
        async with channel(await dialer.start()) as opened:
            metadata = ((PRINCIPAL_METADATA, caller.encode()),)
            yield Direct(opened, metadata, address, str(expected))
    finally:
        await dialer.aclose()


def _caller(certificate: Path) -> Principal:
    return Principal.of(_identity(certificate))


def _identity(certificate: Path) -> SpiffeID:
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return SpiffeID.parse(uri)
