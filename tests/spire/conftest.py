from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.spire.spire import Spire, need, running_spire

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def started(*trust_domain: str) -> Iterator[Spire]:
    """Run SPIRE where others than root can reach its sockets, by a short path."""
    need("spire-server", "spire-agent")
    if os.geteuid() != 0:
        pytest.skip("only root can start processes of several groups")
    folder = Path(tempfile.mkdtemp(prefix="spire-"))
    folder.chmod(0o755)
    try:
        with running_spire(folder, *trust_domain) as running:
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def spire() -> Iterator[Spire]:
    """Run the services' SPIRE."""
    with started() as running:
        yield running


@pytest.fixture
def own_spire() -> Iterator[Spire]:
    """Run SPIRE for one test: without the old authority its agent may end itself."""
    with started() as running:
        yield running


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[Spire]:
    """Run the sandboxes' SPIRE."""
    with started("sandbox.cluster.local") as running:
        yield running
