"""The mesh itself, with every identity from the real SPIRE."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cubemesh import AsyncSandbox, Profile
from tests.fakes import until
from tests.spire.followed import following
from tests.spire.programs import started
from tests.spire.spire import as_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.spire.spire import Spire
    from tlsloader import Material

pytestmark = [pytest.mark.spire, pytest.mark.slow]

BASE = "spiffe://cluster.local/ns/agentcube-system/sa"
ROUTER, MANAGER = f"{BASE}/agentcube-router", f"{BASE}/workloadmanager"
USER = "spiffe://cluster.local/user/ada"
ROUTER_GROUP, MANAGER_GROUP = 4104, 4105


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder of a short path: sockets stand in it."""
    made = Path(tempfile.mkdtemp(prefix="mesh-"))
    yield made
    shutil.rmtree(made)


def profile(folder: Path, address: str, user: Material) -> Profile:
    """Write the files of *user*, as a helper of theirs would."""
    files = {"key.pem": user.key, "svid.pem": user.chain}
    files["bundle.pem"] = user.bundles["cluster.local"].pem
    for name, data in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)
    key, chain, bundle = (str(folder / name) for name in files)
    return Profile(address=address, ca_file=bundle, cert_file=chain, key_file=key)


def roots(material: Material) -> int:
    return len(material.bundles["cluster.local"].certificates)


def handed_over(logs: Path) -> int:
    """Count the identities that sandboxes have taken so far."""
    texts = [each.read_text() for each in logs.glob("sbx-*.log")]
    return sum(text.count("identity loaded") for text in texts)


@asynccontextmanager
async def service(
    name: str, group: int, *argv: str, **environ: str
) -> AsyncIterator[dict[str, Any]]:
    """Run a service until its ready line; SIGINT ends it, and its sandboxes."""
    command = (sys.executable, "-I", "-m", name, *argv)
    async with started(*as_group(group, *command), **environ) as program:
        told = await program.tells("ready")
        yield told
        assert await program.interrupted() == 0


async def test_a_mesh_by_the_workload_api(spire: Spire, folder: Path) -> None:
    """Code runs in a sandbox, which learns of a new root before a Router shows it."""
    socket, sandboxes = f"unix:{folder}/wm.sock", "sandbox.cluster.local"
    bundles, logs = folder / "state" / "bundles", folder / "state" / "logs"
    manager = (
        *("--listen", socket, "--state", f"{folder}/state", "--runtime", f"{folder}/r"),
        *("--router-id", ROUTER, "--spiffe-endpoint-socket", spire.endpoint),
    )
    router = (
        *("--workloadmanager", socket, "--workloadmanager-id", MANAGER),
        *("--trust-bundle", f"{sandboxes}={bundles / sandboxes}.pem"),
    )
    common = {"SPIFFE_ENDPOINT_SOCKET": spire.endpoint}
    async with (
        spire.entry(ROUTER, "-dns", "agentcube-router", group=ROUTER_GROUP),
        spire.entry(MANAGER, group=MANAGER_GROUP),
        spire.entry(USER, ttl=600),
        following(spire, USER) as user,
        service("workloadmanager", MANAGER_GROUP, *manager),
        service("router", ROUTER_GROUP, *router, **common) as told,
    ):
        mesh = profile(folder, told["listen"], user.source.current())
        async with await AsyncSandbox.create(profile=mesh) as sandbox:
            assert (await sandbox.commands.run("echo $((6*7))")).stdout == "42\n"
            before, known = handed_over(logs), roots(user.source.current())
            old = (await spire.ask("localauthority", "x509", "show"))["active"]
            new = await spire.authority("prepare")
            async with asyncio.timeout(10):
                await until(lambda: handed_over(logs) > before)
            await user.next(lambda each: roots(each) > known)
            profile(folder, told["listen"], user.source.current())
            await spire.authority("activate", new)
            await spire.authority("taint", old["authority_id"])
            leaf = user.source.current().leaf_sha256
            await user.next(lambda each: each.leaf_sha256 != leaf)
            assert (await sandbox.commands.run("echo again")).stdout == "again\n"
