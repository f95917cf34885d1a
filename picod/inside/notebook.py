"""An interpreter's life: it becomes what code expects, then runs cell after cell."""

from __future__ import annotations

import builtins
import marshal
import os
import sys
from _signal import pause
from os import _exit

from picod import _protocol as wire
from picod._values import pack
from picod.inside import figures
from picod.inside.cells import Python
from picod.inside.channel import Channel, streams
from picod.inside.node import Node
from picod.inside.shell import Shell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from picod.inside.keeper import Order

_KINDS: dict[bytes, Any] = {b"python": Python, b"bash": Shell, b"node": Node}
# We run isolated and without `site`; what the code starts shall not.
_PLAIN = {"isolated": 0, "no_site": 0, "ignore_environment": 0, "no_user_site": 0}
_SPAWNING = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec")
_NOBODY = (
    "input() has nobody to ask: put the value into the code, or read it from a file"
)


def live(control: int, order: Order) -> NoReturn:
    """Be an interpreter until the runner is gone."""
    channel = Channel(control)
    _become_python(channel)
    count = 0
    try:
        _enter(marshal.loads(channel.receive()))  # noqa: S302
        kind = _KINDS[order[0][0]](channel)
        while True:
            code = channel.receive()
            count += 1
            channel.running = True
            kind.run(code, count)
            channel.send(wire.DONE, pack({}))
            channel.running = False
    except EOFError:
        _exit(0)
    except OSError:  # the code has closed it: the runner sees that, and ends us
        while True:
            pause()


def _become_python(channel: Channel) -> None:
    """Leave nothing of the runner to be seen, and be as `python3` would be."""
    names = [name for name in dir(sys.flags) if not name.startswith("_")]
    flags = {name: getattr(sys.flags, name) for name in names}
    shown: Any = type(sys.implementation)(**flags | _PLAIN)
    sys.flags = shown
    sys.argv = [""]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = streams(channel)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    builtins.input = _refuse_input
    sys.addaudithook(lambda event, _: channel.settle() if event in _SPAWNING else None)
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()  # or all forks would draw the same numbers


def _enter(environment: dict[bytes, bytes]) -> None:
    """Be in *environment*, and in no other."""
    os.environb.clear()
    os.environb.update(environment)
    figures.name_backend()
    _find_packages(environment)


def _find_packages(environment: dict[bytes, bytes]) -> None:
    """Add the places that only this environment names."""
    import site  # noqa: PLC0415

    user = "{}/.local/lib/python{}.{}/site-packages".format(
        os.fsdecode(environment.get(b"HOME", b"")), *sys.version_info[:2]
    )
    if os.path.isdir(user):
        site.addsitedir(user)
    named = os.fsdecode(environment.get(b"PYTHONPATH", b"")).split(":")
    sys.path[1:1] = filter(None, named)


def _refuse_input(*_: object) -> str:
    """Refuse: nobody sits at a keyboard."""
    raise EOFError(_NOBODY)
