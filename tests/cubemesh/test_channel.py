from __future__ import annotations

import asyncio
import hashlib
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    async with _relayed(mesh.profile.address, late=0.1) as (address, _):
        profile = replace(mesh.profile, address=address)
        async with await AsyncSandbox.create(profile=profile) as sandbox:
            assert (await sandbox.commands.run(["say"])).exit_code == 0


async def test_sandboxes_share_one_connection(mesh: Mesh) -> None:
    """A thousand sandboxes of one mesh need one channel; who left may not use it."""
    one = await AsyncSandbox.create(profile=mesh.profile)
    two = await AsyncSandbox.create(profile=mesh.profile)
    assert one._session.mesh is two._session.mesh
    await one.close()
    await two.commands.run(["say"])
    await two.close()
    for left in (one, two):
        with pytest.raises(ConfigurationError, match="closed"):
            await left.commands.run(["say"])


async def test_the_next_sandbox_finds_the_connection(mesh: Mesh) -> None:
    """One after the other they pay for one handshake, unless it takes them too long."""
    async with _relayed(mesh.profile.address) as (address, connections):
        profile = replace(mesh.profile, address=address)
        for _ in range(2):
            async with await AsyncSandbox.create(profile=profile) as sandbox:
                await sandbox.commands.run(["say"])
        assert len(connections) == 1


async def test_nobody_keeps_a_connection_open(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A while after the last user has left it closes; then there is a new one."""
    monkeypatch.setattr("cubemesh._session.LINGER", 0.0)
    async with _relayed(mesh.profile.address) as (address, connections):
        profile = replace(mesh.profile, address=address)
        for made in (1, 2):
            async with await AsyncSandbox.create(profile=profile):
                assert len(connections) == made
            async with asyncio.timeout(10):
                await connections[-1]


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
async def _relayed(
    address: str, *, late: float = 0.0
) -> AsyncIterator[tuple[str, list[asyncio.Task[Any]]]]:
    """Relay to *address*, every piece *late* seconds; yield where, and each relay."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    relays: list[asyncio.Task[Any]] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.extend(filter(None, [asyncio.current_task()]))
        to_reader, to_writer = await asyncio.open_connection(host, int(port))
        pairs = ((reader, to_writer), (to_reader, writer))
        try:
            await asyncio.gather(*(pump(*pair) for pair in pairs))
        finally:
            for each in (writer, to_writer):
                each.close()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            loop.call_later(late, writer.write, data)
        loop.call_later(late, writer.close)

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", relays


def _put(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
