"""The runner's code, packed so that a bare interpreter in the sandbox can run it.

It travels over the socket that it will serve: nothing of it lies in the sandbox's
files. An interpreter of our own version gets it compiled, any other as source.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
from importlib.machinery import SourceFileLoader
from types import CodeType

__all__ = ["BOOTSTRAP", "bundle"]

_MODULES = (
    "picod._protocol",
    "picod._values",
    "picod.inside.libc",
    "picod.inside.kernel",
    "picod.inside.rights",
    "picod.inside.paths",
    "picod.inside.records",
    "picod.inside.link",
    "picod.inside.search",
    "picod.inside.keeper",
    "picod.inside.kept",
    "picod.inside.orders",
    "picod.inside.stdin",
    "picod.inside.reaper",
    "picod.inside.commands",
    "picod.inside.births",
    "picod.inside.nursery",
    "picod.inside.runs",
    "picod.inside.interpreter",
    "picod.inside.spare",
    "picod.inside.context",
    "picod.inside.contexts",
    "picod.inside.watchdog",
    "picod.inside.files",
    "picod.inside.folders",
    "picod.inside.runner",
    "picod.inside.start",
)
_LATER = (  # for interpreters alone
    "picod.inside.channel",
    "picod.inside.figures",
    "picod.inside.bundles",
    "picod.inside.traces",
    "picod.inside.cells",
    "picod.inside.programs",
    "picod.inside.shell",
    "picod.inside.node",
    "picod.inside.notebook",
)

BOOTSTRAP = """\
import builtins, marshal, os, sys, time
began = time.monotonic_ns()
def part(size):
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = os.readv(0, [view])
        if not count:
            sys.exit(1)
        view = view[count:]
    return data
def skip(size):
    while size:
        size -= len(os.read(0, min(size, 8192))) or sys.exit(1)
def load(data):
    for name, code in marshal.loads(data):
        module = sys.modules[name] = type(sys)(name)
        module.__builtins__ = own
        parent, _, leaf = name.rpartition(".")
        if parent not in sys.modules:
            sys.modules[parent] = type(sys)(parent)
        setattr(sys.modules[parent], leaf, module)
        if isinstance(code, str):
            code = compile(code, f"<{name}>", "exec", 0, True)
        exec(code, module.__dict__)
own = dict(vars(builtins))
magic, *lengths = (part(4) for _ in range(5))
lengths = [int.from_bytes(length, "big") for length in lengths]
ours = magic == sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
if not ours:
    skip(sum(lengths[:2]))
first, later = map(part, lengths[:2] if ours else lengths[2:])
if ours:
    skip(sum(lengths[2:]))
load(first)
del first
sys.modules["picod.inside.start"].main(began, lambda: load(later))
"""
"""What the interpreter in the sandbox runs.

Our modules have builtins of their own: what code replaces in its interpreter is not
what we use there.
"""


@functools.cache
def bundle() -> bytes:
    """All modules of the runner: compiled, then as source.

    In front stand the magic number of our bytecode and the lengths of the four parts,
    four bytes each. Whoever has no use for a part does not keep it.
    """
    groups = [[*map(_read, names)] for names in (_MODULES, _LATER)]
    compiled = [marshal.dumps([each[:2] for each in group], 4) for group in groups]
    sources = [marshal.dumps([each[::2] for each in group], 4) for group in groups]
    parts = (*compiled, *sources)
    lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
    return b"".join((importlib.util.MAGIC_NUMBER, lengths, *parts))


def _read(name: str) -> tuple[str, CodeType, str | None]:
    spec = importlib.util.find_spec(name)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise RuntimeError(f"{name} has no source")
    code = spec.loader.get_code(name)
    assert code is not None  # noqa: S101  # it has source
    return name, _renamed(code, f"<{name}>"), spec.loader.get_source(name)


def _renamed(code: CodeType, name: str) -> CodeType:
    """Let nothing in the sandbox tell where on the host the source is."""
    constants = (
        _renamed(each, name) if isinstance(each, CodeType) else each
        for each in code.co_consts
    )
    return code.replace(co_filename=name, co_consts=tuple(constants))
