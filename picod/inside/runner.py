"""The runner's one loop: frames in, frames out, and everything between."""

from __future__ import annotations

import os
import sys
import time

from picod import _protocol as wire
from picod._values import number, pack, text, texts, unpack_dict
from picod.inside import files, folders, rights
from picod.inside.commands import Command
from picod.inside.contexts import Contexts
from picod.inside.files import Transfer
from picod.inside.keeper import Keeper
from picod.inside.kept import TIMEOUT
from picod.inside.link import Call
from picod.inside.nursery import Nursery
from picod.inside.orders import order_of
from picod.inside.paths import Root
from picod.inside.reaper import IDLE, Reaper
from picod.inside.watchdog import Watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from picod._values import Value
    from picod.inside.context import Ask
    from picod.inside.kept import Kept
    from picod.inside.link import Link
    from picod.inside.runs import Run

    Stream = Command | Transfer | Run | Ask


_RETRY = 1.0  # seconds until a keeper is forked ahead again
_NEVER = float("inf")
_LONG = 3600.0  # seconds to wait when nothing is due
_MEMORY = b"/dev/shm"  # where secrets are; no path of callers leads there


class Runner:
    """All streams of the one connection."""

    def __init__(
        self, link: Link, stages: tuple[int, int], load: Callable[[], None]
    ) -> None:
        self._link, self._stages, self._load = link, stages, load
        self._streams: dict[int, Stream] = {}
        self._ready: dict[int, Stream] = {}
        self._blocked: set[int] = set()
        self._requests: dict[int, list[bytes]] = {}
        self._last = 0
        self._defaults: dict[bytes, Value] = {}
        self._roots: list[Root] = []
        self._vault: list[Root] = []
        self._reaper = Reaper()
        self._ahead_at = _NEVER  # when to fork a keeper ahead
        self._watchdog = Watchdog(self._reaper)
        self._nursery: Nursery
        self._contexts: Contexts

    def serve(self) -> None:
        """Go round until PicoD hangs up.

        Raises:
            HungUpError: it did.
            wire.ProtocolError: it sent what it must not.

        """
        while True:
            had_room = self._link.room
            if self._link.wait(self._patience()):
                for kind, stream, payload in self._link.received():
                    self._take(kind, stream, payload)
            if self._link.room and not had_room:
                self._ready.update(self._streams)
            ready, self._ready = self._ready, {}
            for call in ready.values():
                if not call.over and call.go_on():
                    self._ready[call.stream] = call
                self._forget(call)
            self._on_time()
            if self._link.quiet and not self._ready:
                self._think_ahead()

    def _think_ahead(self) -> None:
        """Fork what the next call needs while nobody waits for anything."""
        now = time.monotonic()
        if now < self._ahead_due():
            return
        try:
            if not self._reaper.idle:
                self._reaper.idle.append(Keeper.fork())
            elif not self._reaper.nursery:
                self._nursery.open()
            else:
                self._contexts.think_ahead()
        except OSError:
            self._ahead_at = now + _RETRY

    def _ahead_due(self) -> float:
        """Tell when something is to be forked ahead."""
        if not self._reaper.idle:
            return self._ahead_at
        if not self._reaper.nursery:
            return max(self._ahead_at, self._nursery.again_at)
        return max(self._ahead_at, self._contexts.ahead_at)

    def end(self) -> None:
        """End every process; without isolation also remove the workspace."""
        if not self._defaults or number(self._defaults, b"isolated"):
            return  # whoever is process 1 takes all others along
        self._reaper.end_everything()
        for root in self._roots:
            for _ in folders.empty(root.descriptor, b"."):
                pass

    # -- time

    def _patience(self) -> float:
        if self._ready:
            return 0
        now = time.monotonic()
        ahead = self._ahead_due()
        if ahead <= now:
            return 0
        times = [c.deadline for c in self._commands() if c.sweep_at is None]
        times += [c.sweep_at for c in self._commands() if c.sweep_at is not None]
        again = self._reaper.next_look
        if again is not None:
            times.append(again)
        times += [ahead, self._reaper.lean_at]
        if self._defaults:
            times.append(self._contexts.due())
        if self._watchdog.next_look:
            times.append(self._watchdog.next_look)
        return min(max(0.0, min(times, default=_LONG) - now), _LONG) + 0.0005

    def _commands(self) -> list[Kept]:
        return list(self._reaper.keepers.values())

    def _on_time(self) -> None:
        now = time.monotonic()
        for command in self._commands():
            if command.sweep_at is None and command.deadline <= now:
                command.kill(TIMEOUT)
        if self._defaults:
            self._contexts.on_time(now)
        self._watchdog.look(now)
        self._reaper.sweep(now)
        self._forget_all()

    def _forget_all(self) -> None:
        for call in [call for call in self._streams.values() if call.over]:
            self._forget(call)

    def _forget(self, call: Stream) -> None:
        if call.over:
            self._streams.pop(call.stream, None)

    # -- frames

    def _take(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == wire.HELLO:
            self._greet(unpack_dict(payload))
        elif kind in (wire.REQUEST, wire.REQUEST_PART):
            self._request(kind, stream, payload)
        elif stream in self._streams:
            self._pass_on(self._streams[stream], kind, payload)
        elif stream in self._requests or stream > self._last:
            raise wire.ProtocolError("frame for a stream that is not open")

    def _pass_on(self, call: Stream, kind: int, payload: bytes) -> None:
        if kind == wire.WINDOW:
            call.allow(wire.window_count(payload))
        elif kind == wire.DATA:
            call.data(payload)
        elif kind == wire.END:
            call.finish(payload)
        else:
            call.cancel()
        if not call.over and call.go_on():
            self._ready[call.stream] = call
        self._forget(call)

    def _greet(self, values: dict[bytes, Value]) -> None:
        if self._defaults or number(values, b"version") != wire.VERSION:
            raise wire.ProtocolError("HELLO came twice, or of another version")
        self._defaults = values
        self._watchdog.learn(values)
        self._reaper.most = max(IDLE, number(values, b"processes") // 4)
        if b"filter" in values:
            rights.filter_calls(text(values, b"filter"))
        self._roots = [
            Root(b"/workspace", text(values, b"workspace")),
            Root(text(values, b"scratch"), text(values, b"scratch")),
        ]
        if number(values, b"isolated"):
            self._vault = [Root(_MEMORY, _MEMORY)]
        self._nursery = Nursery(
            self._link,
            self._reaper,
            self._load,
            texts(values, b"imports"),
            isolated=bool(number(values, b"isolated")),
        )
        self._contexts = Contexts(self._link, self._reaper, self._nursery, values)
        os.chdir("/")
        hello: dict[bytes, Value] = {
            b"version": wire.VERSION,
            b"features": [],
            b"python": "{}.{}.{}".format(*sys.version_info[:3]).encode(),
            b"began_ns": self._stages[0],
            b"loaded_ns": self._stages[1],
            b"ready_ns": time.monotonic_ns(),
        }
        self._link.send(wire.HELLO, 0, pack(hello))
        self._ahead_at = 0.0

    def _request(self, kind: int, stream: int, payload: bytes) -> None:
        parts = self._requests.get(stream)
        if parts is None:
            if stream <= self._last or not self._defaults:
                raise wire.ProtocolError("stream numbers must grow, after HELLO")
            self._last = stream
            parts = []
        parts.append(payload)
        if sum(map(len, parts)) > wire.MAX_REQUEST:
            raise wire.ProtocolError("the request is too large")
        if kind == wire.REQUEST_PART:
            self._requests[stream] = parts
            return
        self._requests.pop(stream, None)
        self._open(Call(self._link, stream), unpack_dict(b"".join(parts)))

    def _open(self, call: Call, request: dict[bytes, Value]) -> None:
        if text(request, b"op") == b"execute":
            self._execute(call, request)
            return
        asked = self._contexts.take(call, request)
        if asked is not None:
            self._streams[call.stream] = asked
            self._forget(asked)
            return
        transfer = Transfer(call, lambda made: self._work(made, request))
        self._streams[call.stream] = transfer
        if transfer.go_on():
            self._ready[call.stream] = transfer
        self._forget(transfer)

    def _execute(self, call: Call, request: dict[bytes, Value]) -> None:
        order = order_of(request, self._defaults)
        output = number(self._defaults, b"output")
        with_input = bool(number(request, b"stdin"))
        try:
            kept = self._reaper.keeper(order, with_input=with_input)
        except OSError as error:
            call.fail(b"PROCESS_LIMIT", os.strerror(error.errno or 0).lower())
            return
        command = Command(call, kept, request, output, self._reaper)
        self._streams[call.stream] = command

    def _work(self, call: Transfer, request: dict[bytes, Value]) -> files.Work:
        operation = text(request, b"op")
        largest = number(self._defaults, b"file_size")
        if operation == b"write":
            return files.write(call, self._roots, request, largest)
        if operation == b"secret" and self._vault:
            secret = request | {b"path": b"secrets/" + text(request, b"path")}
            return files.write(call, self._vault, secret | {b"parents": 1}, largest)
        if operation == b"usage":
            return self._watchdog.tell(call)
        known = _OPERATIONS.get(operation)
        if known is None:
            raise wire.ProtocolError("unknown operation")
        return known(call, self._roots, request)


_OPERATIONS = {
    b"read": files.read,
    b"stat": folders.describe,
    b"list": folders.entries,
    b"make": folders.make,
    b"move": folders.move,
    b"remove": folders.remove,
}
