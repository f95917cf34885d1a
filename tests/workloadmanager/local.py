"""The local engine with real PicoDs, and a Router's way into their sandboxes."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auth import PRINCIPAL_METADATA, Principal
from authority import Authority, CAIssuer, Issued
from clock import SYSTEM
from cubemesh.v1 import picod_pb2, picod_pb2_grpc
from tests.forge import Forge
from tests.workloadmanager.engine import ANN
from tlsloader import Dialer, FixedSource, Material, SpiffeID
from tlsloader.grpc import channel
from workloadmanager._census import Registry
from workloadmanager._forkserver import ForkServer
from workloadmanager._identities import Identities
from workloadmanager._ids import sandbox_id
from workloadmanager._local import LocalEngine
from workloadmanager._picod import Plan
from workloadmanager._remove import remove_groups
from workloadmanager._uids import Uids, default_range

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
WORKLOADMANAGER = "spiffe://cluster.local/ns/agentcube-system/sa/workloadmanager"
PRINCIPAL = Principal(ANN.issuer, ANN.subject)


BINARIES = Path.home() / ".cache/cubemesh/bin"


class Noting(CAIssuer):
    """Keeps what it has issued."""

    def __init__(self, *args: Any, **told: Any) -> None:
        super().__init__(*args, **told)
        self.issued: list[Issued] = []

    async def issue(self, identity: SpiffeID) -> Issued:
        issued = await super().issue(identity)
        self.issued.append(issued)
        return issued


class Ground:
    """A short folder in which real sandboxes live, and all who may come to them."""

    def __init__(self, *, isolation: str = "bwrap", svid_life: float = 3600) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cm-"))
        for name in ("run", "logs", "state"):
            (self.folder / name).mkdir(mode=0o700)
        self.services = Forge("cluster.local")
        self.authority = Authority.create("sandbox.cluster.local", now=SYSTEM.now())
        self.sandbox_roots = self.authority.bundle
        self.svid_life = timedelta(seconds=svid_life)
        self.plan = Plan(
            runtime=self.folder / "run",
            logs=self.folder / "logs",
            isolation=isolation,
            auth_mode="mtls",
            router_id=ROUTER,
            own_id=WORKLOADMANAGER,
            path=f"{os.defpath}:{BINARIES}",
        )

    def engine(self) -> LocalEngine:
        issuer = Noting(
            self.authority,
            names=lambda: self.identities.name(sandbox_id()),
            life=self.svid_life,
        )
        self.issued = issuer.issued
        self.identities: Identities = Identities(
            issuer,
            namespace="agentcube-system",
            foreign=lambda: {"cluster.local": self.services.bundle},
        )
        registry = Registry()
        uids = Uids(default_range(Path("/proc/self/uid_map")), busy=registry.users)
        self.forks = ForkServer(self.plan.python, self.plan.environment())
        return LocalEngine(
            self.plan,
            forks=self.forks,
            identities=self.identities,
            uids=uids,
            registry=registry,
        )

    def remove(self) -> None:
        """Remove all; the processes of its sandboxes have been killed."""
        for name in self.left():
            remove_groups(self.plan.runtime / name, name)
        shutil.rmtree(self.folder)

    def left(self) -> list[str]:
        """Return what is in the runtime folder."""
        return [each.name for each in self.plan.runtime.iterdir()]

    def material(self) -> Material:
        """Return the Router's identity, which trusts the sandboxes' domain."""
        svid = self.services.svid(ROUTER)
        return Material.parse(
            key=svid.key,
            chain=svid.chain,
            bundle=self.services.bundle,
            foreign={"sandbox.cluster.local": self.sandbox_roots},
            now=SYSTEM.now(),
        )

    @asynccontextmanager
    async def picod(
        self, address: str, spiffe_id: str, seen: list[str] | None = None
    ) -> AsyncIterator[picod_pb2_grpc.PicoDAsyncStub]:
        """Open a sandbox's data door; *seen* collects the leaves it shows."""
        shown = [] if seen is None else seen
        dialer = Dialer(
            FixedSource(self.material()),
            expected=SpiffeID.parse(spiffe_id),
            address=address,
            on_connected=lambda peer: shown.append(peer.leaf_sha256),
        )
        opened = channel(await dialer.start())
        try:
            yield picod_pb2_grpc.PicoDStub(opened)
        finally:
            await opened.close()
            await dialer.aclose()

    async def run(self, session: Any, *argv: str) -> tuple[str, int]:
        """Run a command in the sandbox; return its output and exit status."""
        output, status = b"", -1
        async with self.picod(session.address, session.spiffe_id) as stub:
            call = stub.Execute(
                picod_pb2.ExecuteRequest(argv=argv),
                metadata=((PRINCIPAL_METADATA, PRINCIPAL.encode()),),
                timeout=20,
            )
            events = [event async for each in call for event in each.events]
        for event in events:
            output += event.output.data
            status = event.exited.code if event.HasField("exited") else status
        return output.decode(), status
