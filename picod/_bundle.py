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
def read(size):
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data
def load(modules):
    for name, code, source in modules:
        module = sys.modules[name] = type(sys)(name)
        module.__builtins__ = own
        parent, _, leaf = name.rpartition(".")
        if parent not in sys.modules:
            sys.modules[parent] = type(sys)(parent)
        setattr(sys.modules[parent], leaf, module)
        if ours:
            code = marshal.loads(code)
        else:
            code = compile(source, f"<{name}>", "exec", 0, True)
        exec(code, module.__dict__)
own = dict(vars(builtins))
magic, modules, later = marshal.loads(read(int.from_bytes(read(4), "big")))
ours = magic == sys.modules["_frozen_importlib_external"].MAGIC_NUMBER
load(modules)
sys.modules["picod.inside.start"].main(began, lambda: load(later))
"""
"""What the interpreter in the sandbox runs.

Our modules have builtins of their own: what code replaces in its interpreter is not
what we use there.
"""


@functools.cache
def bundle() -> bytes:
    """All modules of the runner, behind their length in four bytes."""
    modules, later = map(_packed, _MODULES), map(_packed, _LATER)
    data = marshal.dumps((importlib.util.MAGIC_NUMBER, [*modules], [*later]), 4)
    return len(data).to_bytes(4, "big") + data


def _packed(name: str) -> tuple[str, bytes, str | None]:
    spec = importlib.util.find_spec(name)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise RuntimeError(f"{name} has no source")
    code = spec.loader.get_code(name)
    assert code is not None  # noqa: S101  # it has source
    data = marshal.dumps(_renamed(code, f"<{name}>"), 4)
    return name, data, spec.loader.get_source(name)


def _renamed(code: CodeType, name: str) -> CodeType:
    """Let nothing in the sandbox tell where on the host the source is."""
    constants = (
        _renamed(each, name) if isinstance(each, CodeType) else each
        for each in code.co_consts
    )
    return code.replace(co_filename=name, co_consts=tuple(constants))
