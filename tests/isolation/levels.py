"""Sandboxes of every level that isolates, for the list of escapes."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.isolation.hosts import UIDS
from tests.picod.sandboxes import sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from picod._runner import Runner

_BINARIES = Path("~/.cache/cubemesh/bin").expanduser()
LEVELS = ["bwrap", pytest.param("gvisor", marks=pytest.mark.gvisor)]
each_level = pytest.mark.parametrize("level", LEVELS)


def need_gvisor() -> None:
    """Have runsc on PATH; skip the test where there is none, in CI fail it."""
    path = os.environ.get("PATH", os.defpath)  # noqa: TID251 -- as PicoD would
    if str(_BINARIES) not in path.split(os.pathsep):
        os.environ["PATH"] = f"{path}{os.pathsep}{_BINARIES}"  # noqa: TID251
    if shutil.which("runsc"):
        return
    reason = "runsc missing: run `make peers`"
    if os.environ.get("CI") == "true":  # noqa: TID251 -- what runs decides
        pytest.fail(reason)
    pytest.skip(reason)


@asynccontextmanager
async def isolated(level: str, **settings: Any) -> AsyncIterator[Runner]:
    """Run a sandbox of *level* while the block runs."""
    settings = {"uid": UIDS[0], "level": level} | settings
    if level != "gvisor":
        async with sandbox(**settings) as runner:
            yield runner
        return
    need_gvisor()
    with tempfile.TemporaryDirectory(prefix="cubemesh-gvisor-") as name:
        folder = Path(name)
        os.chmod(folder, 0o711)  # noqa: PTH101, S103  # the sandbox's user passes through
        async with sandbox(folder=folder, **settings) as runner:
            yield runner
