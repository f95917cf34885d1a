"""The list of escapes again, by a service that is not root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.isolation.levels import need_gvisor

TREE = Path(__file__).resolve().parents[2]
SOMEBODY = 20_013
PYTHON = "/usr/bin/python3"
LIST = [f"tests/isolation/test_{name}.py" for name in ("escape", "kernel", "outliving")]


def as_somebody(*argv: str, home: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user without rights, with the packages that we use."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return subprocess.run(
        [PYTHON, *argv],
        cwd=TREE,
        env={
            "HOME": home,
            "PATH": f"{os.defpath}:{home}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(packages),
        },
        user=SOMEBODY,
        group=SOMEBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.gvisor
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="already without root")
def test_the_list_without_root() -> None:
    """Sandboxes of a service without root hold as well: the whole list passes."""
    need_gvisor()
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        shutil.copy(shutil.which("runsc") or "", home)
        usable = as_somebody("-c", "import pytest, picod._runner", home=home)
        if usable.returncode:
            pytest.skip("this tree or its packages are closed to other users")
        done = as_somebody("-m", "pytest", "-p", "no:cacheprovider", *LIST, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
