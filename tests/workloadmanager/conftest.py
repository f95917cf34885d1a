from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fakes import FakeClock
from tests.workloadmanager.engine import House

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def house(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    async with House.open(tmp_path, clock) as house:
        yield house
