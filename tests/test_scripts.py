"""What the wheel of the services installs as commands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS: dict[str, str] = tomllib.loads(
    (ROOT / "deploy" / "services" / "pyproject.toml").read_text()
)["project"]["scripts"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "entry"), SCRIPTS.items())
def test_every_command_starts(name: str, entry: str) -> None:
    """It is called as an installed script calls it: without an argument."""
    module, _, function = entry.partition(":")
    code = f"import sys; from {module} import {function} as main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout, name
