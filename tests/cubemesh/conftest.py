from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from cubemesh import Profile
from tests.cubemesh.pki import CA
from tests.cubemesh.router import FakeRouter, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

USER = "spiffe://cluster.local/user/ada"


@pytest.fixture(scope="session")
def ca() -> CA:
    return CA()


def profile_in(folder: Path, ca: CA, address: str) -> Profile:
    """Write what a client needs into *folder*."""
    chain, key = ca.issue(USER).write(folder / "user")
    bundle = folder / "bundle.pem"
    bundle.write_bytes(ca.bundle)
    return Profile(address, str(bundle), str(chain), str(key))


@dataclass(frozen=True)
class Mesh:
    """A Router made by hand and the profile of its user."""

    router: FakeRouter
    profile: Profile


@pytest.fixture
async def mesh(tmp_path: Path, ca: CA) -> AsyncIterator[Mesh]:
    router = FakeRouter()  # type: ignore[abstract]
    async with serving(router, ca) as address:
        yield Mesh(router, profile_in(tmp_path, ca, address))


@pytest.fixture
def blocking_mesh(tmp_path: Path, ca: CA) -> Iterator[Mesh]:
    """Serve the same from a thread, for tests without an event loop."""
    ready, box = threading.Event(), list[Any]()

    async def serve() -> None:
        router, stop = FakeRouter(), asyncio.Event()  # type: ignore[abstract]
        async with serving(router, ca) as address:
            loop = asyncio.get_running_loop()
            box.append((router, address, lambda: loop.call_soon_threadsafe(stop.set)))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    router, address, stop = box[0]
    yield Mesh(router, profile_in(tmp_path, ca, address))
    stop()
    thread.join(10)


@pytest.fixture
def mesh_files(tmp_path: Path, ca: CA) -> Mesh:
    """Give only the files of a user; nobody serves."""
    router = FakeRouter()  # type: ignore[abstract]
    return Mesh(router, profile_in(tmp_path, ca, "127.0.0.1:1"))
