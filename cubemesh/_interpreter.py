"""A Python interpreter of a service's own, by which an agent tells it from others."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
from pathlib import Path

from cubemesh._errors import ConfigurationError

_TRIAL_SECONDS = 20


def own_interpreter(folder: Path) -> Path:
    """Make *folder* an environment with a copy of our interpreter; return the copy.

    It finds the same packages as ours. Processes of one user differ in nothing else
    that an agent could know them by; links lead back to the one file.

    Source: PEP 405.

    Raises:
        ConfigurationError: the copy does not run.

    """
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    program = folder.resolve() / "bin" / "python3"
    for each in (packages, program.parent):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = program.with_name("python3.new")
    shutil.copyfile(base, draft)
    draft.chmod(0o700)
    draft.replace(program)  # an older one may still run
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\n",
        encoding="utf-8",
    )
    # Each as a site folder, so that what is installed there as a link is found, too.
    found = "".join(
        f"import site; site.addsitedir({each!r})\n" for each in site.getsitepackages()
    )
    (packages / "mesh.pth").write_text(found, encoding="utf-8")
    _try(program)
    return program


def _try(program: Path) -> None:
    done = subprocess.run(
        [program, "-I", "-c", "import authority"],
        capture_output=True,
        text=True,
        timeout=_TRIAL_SECONDS,
        check=False,
        cwd="/",
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        message = f"a copy of {sys.executable} does not run: {last}"
        hint = "use a Python that works in `python3 -m venv --copies`"
        raise ConfigurationError(message, hint=hint)
