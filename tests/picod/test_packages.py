"""Tables of the real pandas and figures of the real matplotlib."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from picod._code import NewContext
from tests.picod.cells import cell
from tests.picod.sandboxes import sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from picod._runner import Runner

PACKAGES = Path("/var/tmp/cubemesh-packages")  # tests/peers/build-packages.sh
PNG = b"\x89PNG\r\n\x1a\n"
pytestmark = pytest.mark.slow


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that the sandbox's user may pass through, if there are packages."""
    if not PACKAGES.is_dir():
        said = f"{PACKAGES} missing: run `make peers`"
        if os.environ.get("CI") == "true":  # noqa: TID251 -- what runs decides
            pytest.fail(said)
        pytest.skip(said)
    with TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
async def context(folder: Path) -> AsyncIterator[tuple[Runner, str]]:
    """Make a context that has the packages, without isolation: they lie outside."""
    environment = {"PYTHONPATH": str(PACKAGES), "OPENBLAS_NUM_THREADS": "1"}
    async with sandbox(level="none", folder=folder) as runner:
        made = await runner.code.create(NewContext("python", b"", environment))
        yield runner, made.name


async def test_tables(context: tuple[Runner, str]) -> None:
    """A data frame has HTML and JSON, a series JSON; long ones are cut with a note."""
    runner, name = context
    code = "import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})"
    (result,) = (await cell(runner, code, context=name)).results
    assert b"<table" in result.data["text/html"]
    assert json.loads(result.data["application/json"]) == {
        "columns": ["a", "b"],
        "index": [0, 1],
        "data": [[1, "x"], [2, "y"]],
    }
    (result,) = (await cell(runner, "pd.Series(range(1500))", context=name)).results
    assert len(json.loads(result.data["application/json"])["data"]) == 1000
    assert result.cut == {"application/json": "the first 1,000 of 1,500 rows"}


async def test_figures(context: tuple[Runner, str]) -> None:
    """Figures come at `show`, as the last value, and at the end; each once."""
    runner, name = context
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    (left_open,) = (await cell(runner, code, context=name)).results
    assert left_open.data["image/png"].startswith(PNG)
    assert not left_open.main
    code = "plt.plot([3]); plt.show(); print('after')\nplt.get_fignums()"
    ran = await cell(runner, code, context=name)
    assert [each.main for each in ran.results] == [False, True]
    assert (ran.text, ran.stdout) == ("[]", b"after\n")
    code = "figure, axes = plt.subplots()\naxes.plot([1])\nfigure"
    (main,) = (await cell(runner, code, context=name)).results
    assert main.main
    assert main.data["image/png"].startswith(PNG)
    assert (await cell(runner, "plt.get_fignums()", context=name)).text == "[]"
