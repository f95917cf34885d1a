"""Every door of a running mesh before a scanner of TLS servers."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from cubemesh import Sandbox
from tests.forge import Forge
from tests.scan.scanner import report, sound
from tests.spire.spire import need
from tests.system.doors import ROUTER, Door, doors_of
from tests.system.mesh import Up, up
from tests.tlsloader.transport import PICOD, show

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.scan, pytest.mark.slow, pytest.mark.timeout(300)]

LOWEST = {"router": "1.2", "workloadmanager": "1.2", "picod": "1.3"}


@pytest.fixture(scope="module", autouse=True)
def scanner() -> None:
    need("sslyze")


@pytest.fixture(scope="module", params=["1.3", "1.2"])
def mesh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Up]:
    flags = {
        f"CUBEMESH_{name}_TLS_MIN_VERSION": request.param
        for name in ("ROUTER", "WORKLOADMANAGER")
    }
    with (
        up(tmp_path_factory.mktemp("scanned"), **flags) as running,
        Sandbox.create(profile=running.profile) as sandbox,
    ):
        running.said |= {"lowest": request.param, "session": sandbox.session_id}
        yield running


@pytest.mark.parametrize("name", LOWEST)
async def test_a_door_is_sound(mesh: Up, name: str) -> None:
    """By default TLS 1.3 alone; with 1.2, no suite that is not AEAD and ECDHE."""
    door = doors_of(mesh, mesh.said["session"])[name]
    assert await report(door) == sound(max(mesh.said["lowest"], LOWEST[name]))
    refused = {r["reason"] for r in mesh.records(door.log) if "refused" in r["event"]}
    assert {"no_certificate", "tls_version", "no_http2"} <= refused
    assert "internal" not in refused


async def test_a_server_that_is_not_sound_is_found_out(tmp_path: Path) -> None:
    """Python's own defaults, and less: the scanner has eyes for all of it."""
    forge = Forge()
    forge.put(tmp_path, forge.svid(ROUTER))
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.set_ciphers("ALL:@SECLEVEL=0")
    show(lax, forge.svid(PICOD))

    async def speak(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))

    server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=lax)
    async with server:
        address = "{}:{}".format(*server.sockets[0].getsockname())
        found = await report(Door(address, "", ROUTER, tmp_path))
    wanted = sound("1.2")
    assert {title for title in wanted if found[title] != wanted[title]} == {
        "TLS 1.2",
        "sessions by ticket",
        "ticket by TLS 1.3",
        "without a certificate",
    }
