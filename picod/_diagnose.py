"""Saying why no isolated runner could start here, and what would help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from picod._errors import IsolationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["diagnose", "read_settings"]

_NAMES = (
    "user/max_user_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
)
_NAMESPACE_WORDS = ("namespace", "uid map", "userns", "clone", "unshare", "setgroups")


def read_settings(root: Path = Path("/proc/sys")) -> dict[str, str]:
    """Read the kernel's settings about user namespaces; missing ones are left out."""
    found = {}
    for name in _NAMES:
        try:
            found[name] = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
    return found


def diagnose(said: str, settings: Mapping[str, str]) -> IsolationError:
    """Make the error for a runner that did not start.

    Args:
        said: what bwrap or the interpreter wrote to stderr.
        settings: as `read_settings` gives them.

    """
    last = said.splitlines()[-1] if said else "it said nothing"
    hint = _hint(said, settings)
    return IsolationError(f"the sandbox could not be isolated: {last}", hint)


def _hint(said: str, settings: Mapping[str, str]) -> str:  # noqa: PLR0911
    about_namespaces = any(word in said.lower() for word in _NAMESPACE_WORDS)
    used_up = "max_*_namespaces" in said or "No space left" in said
    if used_up or settings.get("user/max_user_namespaces") == "0":
        return "no user namespace is left: sysctl -w user.max_user_namespaces=15000"
    if settings.get("kernel/unprivileged_userns_clone") == "0":
        return (
            "user namespaces are switched off: "
            "sysctl -w kernel.unprivileged_userns_clone=1"
        )
    if (
        about_namespaces
        and settings.get("kernel/apparmor_restrict_unprivileged_userns") == "1"
    ):
        return (
            "AppArmor restricts user namespaces: "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, "
            "or install the distribution's bubblewrap with its AppArmor profile"
        )
    if "disable-userns" in said:
        return "bwrap is too old: install bubblewrap ≥ 0.8"
    if about_namespaces or "not permitted" in said.lower():
        return (
            "a container may forbid user namespaces: run it with "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined "
            "--security-opt systempaths=unconfined"
        )
    if any(word in said for word in ("execvp", "No such file", "source path")):
        return (
            "give --python an interpreter, at least 3.9, beneath /usr "
            "or where the sandbox's user may read"
        )
    return "run `cubemesh doctor`"
