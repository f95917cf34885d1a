"""A sandbox's identity ends with its session, long before its certificate does."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from clock import SYSTEM
from cubemesh import AsyncSandbox, MeshError, SessionExpiredError
from tests.fakes import until
from tests.forge import Forge
from tests.system.impostor import Impostor
from tests.system.mesh import Up, up
from tests.system.test_doors import knock
from tlsloader import Material

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.forge import Svid

pytestmark = pytest.mark.slow

DOMAIN = "sandbox.cluster.local"
PROMPT = 1.0  # seconds in which an ended sandbox is believed by nobody any more


@pytest.fixture(scope="module")
def forge() -> Forge:
    return Forge(DOMAIN)


@pytest.fixture(scope="module")
def mesh(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Run a mesh whose sandboxes' authority is ours as well."""
    folder = tmp_path_factory.mktemp("revocation")
    certificate, key = folder / "ca.pem", folder / "ca.key"
    certificate.write_bytes(forge.bundle)
    key.touch(mode=0o600)
    pem = forge.root.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    key.write_bytes(pem)
    files = {
        "CUBEMESH_WORKLOADMANAGER_SANDBOX_CA_CERT_FILE": str(certificate),
        "CUBEMESH_WORKLOADMANAGER_SANDBOX_CA_KEY_FILE": str(key),
        # A thief is met by the first call, not by a line that stood before it came
        "CUBEMESH_ROUTER_DIAL_AHEAD": "0",
    }
    with up(folder, **files) as running:
        yield running


def stolen(mesh: Up, forge: Forge, folder: Path) -> tuple[Svid, Material]:
    """Return what its thief has: the sandbox's identity, good for an hour."""
    svid = forge.svid(f"spiffe://{DOMAIN}/ns/agentcube-system/sandbox/{folder.name}")
    services = (mesh.state / "bundles" / "cluster.local.pem").read_bytes()
    material = Material.parse(
        key=svid.key,
        chain=svid.chain,
        bundle=forge.bundle,
        foreign={"cluster.local": services},
        now=forge.now,
    )
    return svid, material


def folder_of(mesh: Up, sandbox: AsyncSandbox) -> Path:
    """Return where the sockets of *sandbox* are."""
    return mesh.runtime / mesh.sandbox_of(sandbox.session_id)


async def test_a_stolen_identity_serves_nobody(mesh: Up, forge: Forge) -> None:
    """At the sandbox's own address, with its own key: cut off, and never met again.

    While the session lives the thief is the sandbox, as far as anybody can prove.
    """
    sandbox = await AsyncSandbox.create(profile=mesh.profile)
    folder = folder_of(mesh, sandbox)
    address = f"unix:{folder}/data.sock"
    _, material = stolen(mesh, forge, folder)
    (folder / "data.sock").rename(folder / "real.sock")
    thief = await Impostor(material).listen(address)
    try:
        async with aclosing(sandbox.commands.stream(["true"])) as stream:
            await anext(stream)
            assert (thief.calls, thief.connections) == (1, 1)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(sandbox.kill())
                async with asyncio.timeout(PROMPT):
                    with pytest.raises(MeshError):
                        await anext(stream)
                    await until(lambda: not thief.connections)
    finally:
        await thief.aclose()
    make_anew(folder)
    await nobody_comes(sandbox, await Impostor(material).listen(address))


def make_anew(folder: Path) -> None:
    """Come back to the place that the mesh has removed."""
    assert not folder.exists()
    folder.mkdir(mode=0o700)


async def nobody_comes(sandbox: AsyncSandbox, thief: Impostor) -> None:
    """See that the Router does not even dial, however often it is asked."""
    try:
        for _ in range(5):
            with pytest.raises(SessionExpiredError):
                await sandbox.commands.run("true")
            await SYSTEM.sleep(PROMPT / 5)
            assert (thief.calls, thief.connections) == (0, 0)
    finally:
        await thief.aclose()


async def test_a_stolen_identity_calls_nobody(
    mesh: Up, forge: Forge, tmp_path: Path
) -> None:
    """Of a live sandbox or a dead one: no door of the mesh has an answer for it."""
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        folder = folder_of(mesh, sandbox)
        svid, _ = stolen(mesh, forge, folder)
        chain, key = tmp_path / "svid.pem", tmp_path / "key.pem"
        chain.write_bytes(svid.chain)
        key.write_bytes(svid.key)
        async with await AsyncSandbox.create(profile=mesh.profile) as other:
            doors = (
                mesh.said["address"],
                f"unix:{mesh.runtime}/wm.sock",
                f"unix:{folder_of(mesh, other)}/data.sock",
            )
            for _ in ("alive", "dead"):
                for door in doors:
                    assert knock(door, chain, key) == b""
                await sandbox.kill()
