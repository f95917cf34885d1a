from __future__ import annotations

import asyncio
import hashlib
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cubemesh import AsyncSandbox, ConfigurationError, UnavailableError
from cubemesh._identity import Identity
from tests.cubemesh.conftest import USER
from tests.cubemesh.pki import CA
from tests.cubemesh.router import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cubemesh.conftest import Mesh


async def test_a_renewed_certificate_is_used_by_the_next_call(
    mesh: Mesh, ca: CA
) -> None:
    """Rotation needs no restart: new calls show the new leaf, a stream runs on."""
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        stream = asyncio.ensure_future(sandbox.commands.run("hang"))
        await mesh.router.started.wait()
        for _ in range(3):
            fresh = ca.issue(USER)
            fresh.write(Path(mesh.profile.cert_file).parent)
            await sandbox.commands.run(["say"])
            assert mesh.router.seen_certificates[-1] == fresh.chain
        mesh.router.go_on.set()
        assert (await stream).stdout == "first"


async def test_a_half_written_rotation_keeps_the_old_identity(
    mesh: Mesh, ca: CA
) -> None:
    """A new certificate beside the old key is not used before its key is there."""
    fresh = ca.issue(USER)
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        _put(mesh.profile.cert_file, fresh.chain)
        await sandbox.commands.run(["say"])
        assert mesh.router.seen_certificates[-1] != fresh.chain
        _put(mesh.profile.key_file, fresh.key)
        await sandbox.commands.run(["say"])
        assert mesh.router.seen_certificates[-1] == fresh.chain


async def test_a_router_of_a_foreign_ca_is_refused(mesh: Mesh) -> None:
    """Who cannot prove to be this mesh's Router gets no call and no session."""
    from tests.cubemesh.router import FakeRouter  # noqa: PLC0415

    stranger = FakeRouter()  # type: ignore[abstract]
    async with serving(stranger, CA()) as address:
        profile = type(mesh.profile)(
            address,
            mesh.profile.ca_file,
            mesh.profile.cert_file,
            mesh.profile.key_file,
        )
        with pytest.raises(UnavailableError):
            await AsyncSandbox.create(profile=profile)
    assert stranger.metadata == []


async def test_a_server_of_another_name_is_refused(mesh: Mesh) -> None:
    """A certificate of the same CA without the Router's name is not enough."""
    profile = type(mesh.profile)(
        mesh.profile.address,
        mesh.profile.ca_file,
        mesh.profile.cert_file,
        mesh.profile.key_file,
        server_name="somebody-else",
    )
    with pytest.raises(UnavailableError):
        await AsyncSandbox.create(profile=profile)
    assert mesh.router.metadata == []


@pytest.mark.slow
async def test_a_router_may_be_far_away(mesh: Mesh) -> None:
    """Each way takes 0.1 s here, so that a handshake takes longer than a retry."""
    async with _far(mesh.profile.address) as address:
        profile = replace(mesh.profile, address=address)
        async with await AsyncSandbox.create(profile=profile) as sandbox:
            assert (await sandbox.commands.run(["say"])).exit_code == 0


async def test_sandboxes_share_one_connection(mesh: Mesh) -> None:
    """A thousand sandboxes of one mesh need one channel, and the last one closes it."""
    one = await AsyncSandbox.create(profile=mesh.profile)
    two = await AsyncSandbox.create(profile=mesh.profile)
    assert one._session.mesh is two._session.mesh
    await one.close()
    await two.commands.run(["say"])
    await two.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await two.commands.run(["say"])


def test_tells_dates_and_fingerprint(mesh_files: Mesh, ca: CA) -> None:
    """Half life comes from the certificate itself."""
    pair = ca.issue(USER, life=timedelta(hours=2))
    pair.write(Path(mesh_files.profile.cert_file).parent)
    identity = Identity.load(mesh_files.profile)
    assert identity.validity is not None
    begin, end = identity.validity
    assert end - begin == timedelta(hours=2, seconds=10)
    assert identity.validity.half == begin + (end - begin) / 2
    der = ssl.PEM_cert_to_DER_cert(pair.chain.decode())
    assert identity.leaf_sha256 == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
def test_unusable_files_are_named(mesh_files: Mesh, name: str) -> None:
    """A missing or broken file ends in an error that names it, not in gRPC's words."""
    path = Path(getattr(mesh_files.profile, name))
    path.write_bytes(b"nothing of use")
    with pytest.raises(ConfigurationError, match=path.name):
        Identity.load(mesh_files.profile, wait=0)
    path.unlink()
    with pytest.raises(ConfigurationError, match=path.name):
        Identity.load(mesh_files.profile, wait=0)


@asynccontextmanager
async def _far(address: str) -> AsyncIterator[str]:
    """Relay to *address*, every piece 0.1 s late; yield where."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        pairs = ((reader, to_writer), (to_reader, writer))
        try:
            await asyncio.gather(*(pump(*pair) for pair in pairs))
        finally:
            for each in (writer, to_writer):
                each.close()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            loop.call_later(0.1, writer.write, data)
        writer.close()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _put(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
