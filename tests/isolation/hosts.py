"""The host around the sandboxes of these tests, and secrets planted on it."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "cubemesh-planted-secret-4713"
ROOT = os.geteuid() == 0
UIDS: tuple[int, int] | tuple[None, None] = (20_011, 20_012) if ROOT else (None, None)
"""The host's users of two sandboxes: each its own where we can choose."""


@dataclass(frozen=True, slots=True)
class Planted:
    """Files with the secret: one that only its owner may read, one for everybody."""

    closed: Path
    public: Path


@contextmanager
def planted() -> Iterator[Planted]:
    """Plant the secret in a folder beneath /tmp, as keys and state folders are."""
    with tempfile.TemporaryDirectory(prefix="cubemesh-state-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o700)
        closed, public = folder / "closed" / "key.pem", folder / "public.pem"
        for path in (closed, public):
            path.write_text(SECRET)
            path.chmod(0o644)
        yield Planted(closed, public)
