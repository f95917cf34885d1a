"""SPIRE's own programs take the configurations in our ConfigMaps."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.kubernetes.api import BINARIES, need
from tests.kubernetes.conftest import DEPLOY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.spire, pytest.mark.slow]


def configuration(program: str) -> str:
    documents = yaml.safe_load_all((DEPLOY / f"base/spire-{program}.yaml").read_text())
    name = f"{program}.conf"
    found = [d["data"][name] for d in documents if name in d.get("data", {})]
    return str(found[0])


def validate(program: str, text: str, folder: Path) -> int:
    file = folder / "given.conf"
    file.write_text(text)
    argv = [str(BINARIES / f"spire-{program}"), "validate", "-config", str(file)]
    return subprocess.run(argv, capture_output=True, check=False).returncode


@pytest.mark.parametrize("program", ["server", "agent"])
def test_spire_takes_its_configuration(program: str, tmp_path: Path) -> None:
    """Each key is one that this version knows, and a planted one is not."""
    need(f"spire-{program}")
    text = configuration(program)

    assert validate(program, text, tmp_path) == 0
    planted = text.replace("log_format =", 'planted = "x"\nlog_format =')
    assert planted != text
    assert validate(program, planted, tmp_path) != 0
