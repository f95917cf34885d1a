from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.spire.spire import Spire, need, running_spire

if TYPE_CHECKING:
    from collections.abc import Iterator


def place() -> Path:
    """Make a folder that others than root can reach, by a path short for sockets."""
    need("spire-server", "spire-agent")
    if os.geteuid() != 0:
        pytest.skip("only root can start processes of several groups")
    folder = Path(tempfile.mkdtemp(prefix="spire-"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def spire() -> Iterator[Spire]:
    """Run the services' SPIRE."""
    folder = place()
    try:
        with running_spire(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[Spire]:
    """Run the sandboxes' SPIRE."""
    folder = place()
    try:
        with running_spire(folder, "sandbox.cluster.local") as running:
            yield running
    finally:
        shutil.rmtree(folder)
