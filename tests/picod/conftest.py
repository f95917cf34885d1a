from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.picod.sandboxes import sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from picod._runner import Runner


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    async with sandbox() as made:
        yield made
