"""Which programs of this machine the templates need: a missing one is told at start."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workloadmanager._templates import Template

__all__ = ["missing"]

_ADMINISTRATION = "/usr/local/sbin:/usr/sbin:/sbin"
_NETWORK = (("pasta", "slirp4netns"), ("nft",), ("nsenter",), ("setpriv",))
_NETWORK_HINT = "install passt (or slirp4netns), nftables and util-linux"
_GVISOR = (("runsc",), ("setpriv",))
_GVISOR_HINT = "install gVisor's runsc on PATH, or let it say isolation: bwrap"


def missing(
    templates: Iterable[Template], level: str, path: str
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong and what to do, for each template that cannot start here.

    *level* is the service's own, *path* where programs are looked for.
    """
    for template in templates:
        if (template.isolation or level) == "gvisor":
            for names in _absent(_GVISOR, path):
                yield f"template {template.name}: gvisor needs {names}", _GVISOR_HINT
        if template.allow_network:
            for names in _absent(_NETWORK, path):
                told = f"template {template.name}: allow_network needs {names}"
                yield told, _NETWORK_HINT


def _absent(needed: Iterable[tuple[str, ...]], path: str) -> Iterator[str]:
    path = os.pathsep.join((path, _ADMINISTRATION))
    for names in needed:
        if not any(shutil.which(name, path=path) for name in names):
            yield " or ".join(names)
