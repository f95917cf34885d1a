"""The runner's code, packed so that a bare interpreter in the sandbox can run it.

It travels over the socket that it will serve: nothing of it lies in the sandbox's
files. An interpreter of our own version gets it compiled, any other as source.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
from importlib.machinery import SourceFileLoader

__all__ = ["BOOTSTRAP", "bundle"]

_MODULES = (
    "picod._protocol",
    "picod._values",
    "picod.inside.kernel",
    "picod.inside.paths",
    "picod.inside.records",
    "picod.inside.link",
    "picod.inside.keeper",
    "picod.inside.orders",
    "picod.inside.stdin",
    "picod.inside.reaper",
    "picod.inside.commands",
    "picod.inside.memory",
    "picod.inside.files",
    "picod.inside.folders",
    "picod.inside.runner",
)

BOOTSTRAP = """\
import marshal, os, sys, time
began = time.monotonic_ns()
def read(size):
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data
magic, modules = marshal.loads(read(int.from_bytes(read(4), "big")))
ours = magic == sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
for name, code, source in modules:
    module = sys.modules[name] = type(sys)(name)
    parent, _, leaf = name.rpartition(".")
    if parent not in sys.modules:
        sys.modules[parent] = type(sys)(parent)
    setattr(sys.modules[parent], leaf, module)
    code = marshal.loads(code) if ours else compile(source, name, "exec", 0, True)
    exec(code, module.__dict__)
sys.modules["picod.inside.runner"].main(began)
"""


@functools.cache
def bundle() -> bytes:
    """All modules of the runner, behind their length in four bytes."""
    modules = []
    for name in _MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            raise RuntimeError(f"{name} has no source")
        code = marshal.dumps(spec.loader.get_code(name), 4)
        modules.append((name, code, spec.loader.get_source(name)))
    data = marshal.dumps((importlib.util.MAGIC_NUMBER, modules), 4)
    return len(data).to_bytes(4, "big") + data
