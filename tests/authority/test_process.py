from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from clock import SYSTEM
from tlsloader import FileSource, Material, Paths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# Processes need most of a second to start.
pytestmark = pytest.mark.slow

IDENTITIES = {
    "router": "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router",
    "workloadmanager": "spiffe://cluster.local/ns/agentcube-system/sa/workloadmanager",
    "user": "spiffe://cluster.local/user/ann",
}


@asynccontextmanager
async def process(
    state: Path, *flags: str, **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the authority; it is gone after the block."""
    argv = ("-m", "authority", "--state", str(state), "--user", "ann", *flags)
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        *argv,
        env={"PATH": os.defpath, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def ready(running: asyncio.subprocess.Process) -> None:
    assert running.stdout is not None
    assert json.loads(await running.stdout.readline()) == {"ready": True}


def paths(state: Path, who: str) -> Paths:
    folder = state / "identities" / who
    bundle = state / "bundles" / "cluster.local.pem"
    return Paths(folder / "key.pem", folder / "svid.pem", bundle)


def loaded(state: Path, who: str) -> Material:
    return Material.load(paths(state, who), now=SYSTEM.now())


async def test_makes_everybodys_identity(tmp_path: Path) -> None:
    """Once it is ready, each service and the user finds an identity of its own."""
    state = tmp_path / "state"
    async with process(state) as running:
        await ready(running)
    for who, identity in IDENTITIES.items():
        assert str(loaded(state, who).identity) == identity
    assert state.stat().st_mode & 0o777 == 0o700
    assert dns_names(loaded(state, "router")) == [
        "agentcube-router",
        "agentcube-router.agentcube-system.svc",
        "localhost",
    ]
    assert dns_names(loaded(state, "workloadmanager")) == []
    assert dns_names(loaded(state, "user")) == []


def dns_names(material: Material) -> list[str]:
    leaf = x509.load_pem_x509_certificate(material.chain)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.DNSName)


async def test_renews_what_a_source_follows(tmp_path: Path) -> None:
    """With lives of two seconds a source sees a new one each second."""
    generations: asyncio.Queue[Material] = asyncio.Queue()
    async with process(tmp_path, "--svid-ttl", "2s") as running:
        await ready(running)
        source = await FileSource.load(paths(tmp_path, "router"))
        source.subscribe(generations.put_nowait)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(source.follow())
            for generation in (2, 3):
                fresh = await generations.get()
                assert fresh.generation == generation
                left = fresh.not_after - SYSTEM.now()
                assert timedelta(seconds=1) < left <= timedelta(seconds=3)
            following.cancel()
    assert source.failures == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(number: int, tmp_path: Path) -> None:
    """It ends with success, and leaves whole files only."""
    async with process(tmp_path) as running:
        await ready(running)
        running.send_signal(number)
        assert await running.wait() == 0
    left = await asyncio.to_thread(lambda: list(tmp_path.rglob("*.new")))
    assert left == []


async def test_goes_on_with_its_root_after_a_restart(tmp_path: Path) -> None:
    """Killed and started again, it makes identities that the old bundle vouches for."""
    bundle = tmp_path / "bundles" / "cluster.local.pem"
    async with process(tmp_path) as running:
        await ready(running)
        running.kill()
        await running.wait()
    before = bundle.read_bytes(), loaded(tmp_path, "user").leaf_sha256
    async with process(tmp_path) as running:
        await ready(running)
    assert bundle.read_bytes() == before[0]
    assert loaded(tmp_path, "user").leaf_sha256 != before[1]


async def test_logs_json_lines_without_keys(tmp_path: Path) -> None:
    """Each identity is one line of JSON; no line holds a key."""
    async with process(tmp_path) as running:
        await ready(running)
        running.terminate()
        _, errors = await running.communicate()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["identity"] for line in lines] == list(IDENTITIES.values())
    assert {line["event"] for line in lines} == {"identity issued"}
    assert {line["service"] for line in lines} == {"authority"}
    assert b"PRIVATE" not in errors


async def test_tells_all_faults_at_once(tmp_path: Path) -> None:
    """Every wrong flag has an error and a hint, and nothing was begun."""
    flags = ("--trust-domain", "A", "--user", "a/b", "--namespace", "..")
    state = tmp_path / "state"
    async with process(state, *flags, CUBEMESH_AUTHORITY_SVID_TTL="1s") as running:
        _, errors = await running.communicate()
        assert running.returncode == 78
    lines = errors.decode().splitlines()
    assert [line.split(":")[1].strip() for line in lines[::2]] == [
        "--trust-domain",
        "--namespace",
        "--user",
        "--svid-ttl",
    ]
    assert all(line.startswith("hint: ") for line in lines[1::2])
    assert not state.exists()


async def test_refuses_an_authority_it_cannot_use(tmp_path: Path) -> None:
    """A CA key that others can read is an error with a remedy, not a traceback."""
    async with process(tmp_path) as running:
        await ready(running)
    (tmp_path / "authority" / "ca.key").chmod(0o644)
    async with process(tmp_path) as running:
        _, errors = await running.communicate()
        assert running.returncode == 78
    error, hint = errors.decode().splitlines()
    assert error.startswith("error: ")
    assert "chmod" in hint
