from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from tests.forge import Forge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def forge() -> Forge:
    return Forge("cluster.local")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that every user can reach."""
    with TemporaryDirectory(prefix="cubemesh-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def pytest_asyncio_loop_factories(
    item: pytest.Function,
) -> dict[str, Callable[[], Any]]:
    """Modules that say ``BOTH_LOOPS = True`` run on asyncio's loop and on uvloop."""
    factories: dict[str, Callable[[], Any]] = {"asyncio": asyncio.new_event_loop}
    if getattr(item.module, "BOTH_LOOPS", False):
        factories["uvloop"] = uvloop.new_event_loop
    return factories
