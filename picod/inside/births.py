"""What goes on in the nursery: imports, then one fork after the other."""

from __future__ import annotations

import _socket
import gc
import marshal
import os
import resource
import select
import struct
import sys
import time

from picod._values import pack
from picod.inside import keeper, kernel, rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from picod._values import Value
    from picod.inside.keeper import Order

_IN_USE = 2  # interpreters: the first one is forked ahead
_OURS: dict[str, Any] = {}  # our modules, out of the sight of code
_LARGEST = 256 * 1024  # bytes of an order
_SOON = ("linecache", "traceback")  # imported once the sandbox is in use


def live(
    channel: _socket.socket,
    load: Callable[[], None],
    imports: list[bytes],
    *,
    isolated: bool,
) -> NoReturn:
    """Be the nursery."""
    try:
        if not isolated:
            kernel.end_with_parent()
        os.set_blocking(channel.fileno(), True)
        keeper.close_all_but(channel.fileno())
        load()
        _prepare()
        for name in imports:
            _import(channel, name)
        channel.send(pack({b"name": b""}))
        _freeze()
        _serve(channel)
        os._exit(0)
    except BaseException:  # noqa: BLE001  # nothing of it may go up into the runner
        sys.__excepthook__(*sys.exc_info())
    finally:
        os._exit(1)


def _prepare() -> None:
    """Let imports find what `python3` finds, and nothing of ours."""
    import site  # noqa: PLC0415

    site.main()
    sys.path.insert(0, "")
    sys.modules["picod.inside.figures"].name_backend()
    for name in [name for name in sys.modules if name.split(".")[0] == "picod"]:
        _OURS[name] = sys.modules.pop(name)


def _import(channel: _socket.socket, name: bytes) -> None:
    """Import *name* and tell what it took, or why it failed."""
    channel.send(pack({b"name": name}))
    began, held = time.monotonic_ns(), sum(kernel.held(os.getpid()))
    error = ""
    try:
        __import__(name.decode())
    except BaseException as raised:  # noqa: BLE001  # it may do anything
        error = f"{type(raised).__name__}: {raised}"
    spent, threads = time.monotonic_ns() - began, _threads()
    if threads > 1:
        error = f"it leaves {threads - 1} threads running, and no fork keeps them"
    told: dict[bytes, Value] = {
        b"name": name,
        b"duration_ns": spent,
        b"memory": max(0, sum(kernel.held(os.getpid())) - held),
        b"error": error.encode("utf-8", "backslashreplace")[:500],
    }
    channel.send(pack(told))
    if threads > 1:
        os._exit(0)  # the next one goes without it


def _threads() -> int:
    """Count our threads after a fork: some packages end theirs for it."""
    if len(os.listdir("/proc/self/task")) > 1:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task"))


def _freeze() -> None:
    """Keep the collector of the forks off our pages."""
    gc.collect()
    gc.freeze()


def _serve(channel: _socket.socket) -> None:
    """Fork what is asked for until the runner is gone."""
    ahead: list[str] = []
    born = 0
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    while True:
        if ahead and not waiting.poll(0):
            __import__(ahead.pop(0))
            _freeze()
            continue
        order, rights, *_ = channel.recvmsg(_LARGEST, _socket.CMSG_SPACE(64))
        if not order:
            return
        descriptors = [
            descriptor
            for _, _, data in rights
            for descriptor in struct.unpack(f"={len(data) // 4}i", data)
        ]
        _bear(channel, marshal.loads(order), descriptors)  # noqa: S302
        keeper.close(descriptors)
        born += 1
        if born == _IN_USE:
            ahead = list(_SOON)


def _bear(channel: _socket.socket, order: Order, descriptors: list[int]) -> None:
    """Fork a keeper that the runner inherits, since what forked it ends at once."""
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    try:
        between = os.getpid()
        if os.fork() == 0:
            channel.close()
            rights.be_the_code()
            kernel.hide()
            kernel.adopt_orphans()
            while os.getppid() == between:
                os.sched_yield()
            stdout, stderr, report, control = descriptors
            os.write(report, keeper.BORN + keeper.number(os.getpid()))
            keeper.keep(
                order, (0, stdout, stderr), report, _start(_out_of_reach(control))
            )
    finally:
        os._exit(0)


def _out_of_reach(descriptor: int) -> int:
    """Move *descriptor* above what the code may open, and so above what it closes."""
    highest = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], keeper.DESCRIPTORS) - 1
    os.dup2(descriptor, highest, inheritable=False)
    os.close(descriptor)
    return highest


def _start(control: int) -> Callable[[Order, tuple[int, int, int]], int]:
    def start(order: Order, stdio: tuple[int, int, int]) -> int:
        pid = os.fork()
        if pid:
            os.close(control)
            return pid
        try:
            os.setsid()
            for wanted, descriptor in enumerate(stdio):
                os.dup2(descriptor, wanted)
            keeper.close_all_but(control)
            if not order[-1]:
                kernel.end_with_parent()
            kernel.hide()
            kernel.restore_signals()
            _OURS["picod.inside.notebook"].live(control, order)
        except BaseException:  # noqa: BLE001  # nothing of it may go up into a keeper
            sys.__excepthook__(*sys.exc_info())
        finally:
            os._exit(70)

    return start
