"""Both doors of a real PicoD against everybody who must not come in."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from cubemesh.v1 import picod_pb2, picod_pb2_grpc
from tests.forge import Forge
from tests.picod.process import (
    METADATA,
    ROUTER,
    SANDBOX,
    WORKLOADMANAGER,
    PicoD,
    denied,
    identity,
    stat,
)
from tests.tlsloader.transport import PREFACE, tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

# OpenSSL, which sees the chain first, has one word for all that is wrong with it
COARSE = ("untrusted_chain", "wrong_purpose")
OTHER = "sbx-" + "c" * 26
DENIED = ("PERMISSION_DENIED", "denied")


@pytest.fixture(scope="module")
def picod() -> Iterator[PicoD]:
    with PicoD() as process:
        asyncio.run(process.bind())
        yield process


async def knock(path: Path, context: ssl.SSLContext | None) -> bytes:
    """Connect, speak first, and return what is answered before the end."""
    how: dict[str, Any] = {"ssl": context, "server_hostname": "x"} if context else {}
    answer = b""
    with suppress(OSError, asyncio.IncompleteReadError):
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_unix_connection(str(path), **how)
            try:
                writer.write(PREFACE)
                answer = await reader.read(65536)
            finally:
                writer.transport.abort()
    return answer


async def test_lets_the_router_in(picod: PicoD) -> None:
    """The knocking of these tests is answered when the right one knocks."""
    answer = await knock(picod.data, tls(picod.mesh.svid(ROUTER)))
    assert answer[3] == 4, "SETTINGS come first"
    async with picod.routed() as stub:
        await stub.Stat(stat(), metadata=METADATA)


async def test_refuses_every_bad_certificate(picod: PicoD) -> None:
    """Whatever is wrong with it, nothing is answered and the log says why."""
    count = len(picod.records("peer refused"))
    for case in picod.mesh.bad_cases(ROUTER):
        assert await knock(picod.data, tls(case.chain)) == b"", case.title
        count += 1
        refused = await picod.logged("peer refused", count)
        assert refused["door"] == "data"
        assert refused["reason"] in {case.reason, *COARSE}, case.title


@pytest.mark.parametrize(
    "who",
    [
        identity(SANDBOX),
        identity(OTHER),
        "spiffe://sandbox.cluster.local/ns/agentcube-system/sa/agentcube-router",
    ],
)
async def test_refuses_a_sandbox(picod: PicoD, who: str) -> None:
    """The sandboxes' own authority opens no sandbox: not its own, no other."""
    count = len(picod.records("peer refused"))
    assert await knock(picod.data, tls(picod.sandboxes.svid(who))) == b""
    refused = await picod.logged("peer refused", count + 1)
    assert refused["reason"] == "untrusted_chain"


@pytest.mark.parametrize(
    "who",
    [
        WORKLOADMANAGER,
        "spiffe://cluster.local/user/ada",
        f"{ROUTER}/more",
        ROUTER.removesuffix("r"),
        identity().replace("sandbox.cluster", "cluster", 1),
    ],
)
async def test_refuses_whoever_is_not_the_router(picod: PicoD, who: str) -> None:
    """A valid certificate of the mesh is not enough: this door is the Router's."""
    count = len(picod.records("peer refused"))
    assert await knock(picod.data, tls(picod.mesh.svid(who))) == b""
    refused = await picod.logged("peer refused", count + 1)
    assert (refused["reason"], refused["peer_id"]) == ("not_admitted", who)


async def test_refuses_who_shows_nothing_or_a_foreign_ca(picod: PicoD) -> None:
    """No certificate, a foreign CA's, and no TLS: no HTTP/2 SETTINGS come back."""
    stranger = Forge("cluster.local").svid(ROUTER)
    for context in (tls(), tls(stranger), None):
        assert await knock(picod.data, context) == b""


async def test_the_router_must_name_the_caller(picod: PicoD) -> None:
    """A call on nobody's behalf, on two people's, or on garbage's is denied."""
    key, value = METADATA[0]
    async with picod.routed() as stub:
        for metadata in ((), (*METADATA, *METADATA), ((key, b"{}"),), ((key, b""),)):
            assert await denied(stub.Stat(stat(), metadata=metadata)) == DENIED
        await stub.Stat(stat(), metadata=((key, value),))


async def test_each_door_serves_its_own_service_only(picod: PicoD) -> None:
    """The Router cannot bind or end a sandbox, the WorkloadManager not use it."""
    async with picod.channel() as opened:
        control = picod_pb2_grpc.SandboxControlStub(opened)
        for call in (
            control.Status(picod_pb2.StatusRequest(), metadata=METADATA),
            control.Shutdown(picod_pb2.ShutdownRequest(), metadata=METADATA),
        ):
            assert (await denied(call))[0] in {"PERMISSION_DENIED", "UNIMPLEMENTED"}
    async with grpc.aio.insecure_channel(f"unix:{picod.control}") as opened:
        data = picod_pb2_grpc.PicoDStub(opened)
        code, _ = await denied(data.Stat(stat(), metadata=METADATA))
        assert code in {"PERMISSION_DENIED", "UNIMPLEMENTED"}


_STRANGER = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(10)
peer.connect(sys.argv[1])
try:
    peer.sendall(bytes.fromhex(sys.argv[2]))
    print(len(peer.recv(100)))
except ConnectionError:
    print(0)
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_the_control_door_refuses_another_user(picod: PicoD) -> None:
    """Even if the file's rights let it connect, the kernel tells who it is."""
    picod.folder.chmod(0o711)
    picod.control.chmod(0o777)
    answer = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", "-c", _STRANGER, str(picod.control), PREFACE.hex()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "0", answer.stderr
    refused = await picod.logged("peer refused")
    assert (refused["door"], refused["reason"]) == ("control", "other_user")


def test_the_sockets_are_for_our_own_user(picod: PicoD) -> None:
    """The file's rights are a second lock before the proof."""
    assert picod.data.stat().st_mode & 0o077 == 0
