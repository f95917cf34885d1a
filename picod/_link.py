"""PicoD's end of the socket to one runner: frames, streams, and its one fault."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import signal
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from picod import _protocol as wire
from picod._errors import RunnerFaultError
from picod._streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from picod._spawn import Spawned

__all__ = ["ENDED", "Link"]

_log = logging.getLogger("picod.runner")
_READ = 256 * 1024
_STDERR = 8 * 1024
ENDED = "the runner ended"
_GRACE = 3.0  # seconds to clean up where nothing isolates


class Watch:
    """Gives the runner up when *check* finds it late; asks again and again."""

    def __init__(
        self,
        seconds: float,
        patience: float,
        check: Callable[[], bool],
        give_up: Callable[[str], None],
    ) -> None:
        self._patience, self._check, self._give_up = patience, check, give_up
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(seconds + patience, self._look)

    def _look(self) -> None:
        if self._check():
            self._give_up("the runner does not answer")
        else:
            self._handle = self._loop.call_later(self._patience, self._look)

    def end(self) -> None:
        """Stop asking."""
        self._handle.cancel()


class Link:
    """Everything that passes between us and one runner.

    What breaks the protocol, and the end of the runner, is a *fault*: it ends the
    sandbox's processes and every stream.

    Args:
        spawned: the runner's process.
        patience: how many seconds it may lag behind what it must do.

    """

    def __init__(self, spawned: Spawned, *, patience: float = 10.0) -> None:
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._process, self._socket = spawned.process, spawned.socket
        self._stderr, self._isolated = spawned.stderr, spawned.place.isolated
        self._nested = spawned.nested
        self._said = b""
        self._parser = wire.Parser(wire.FROM_RUNNER)
        self._buffer = mmap.mmap(-1, _READ)  # memory only where it was needed
        self._out: deque[bytes | memoryview] = deque()
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self.hello: asyncio.Future[bytes] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.fault: str | None = None
        self._closing = False
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._loop.add_reader(self._socket, self._on_readable)
        self._loop.add_reader(self._stderr, self._on_stderr)

    @property
    def said(self) -> str:
        """The last that the runner wrote to its stderr."""
        return self._said.decode(errors="replace").strip()

    @property
    def pid(self) -> int:
        """The process on the host: bwrap, or without isolation the runner."""
        return self._process.pid

    @property
    def inner(self) -> int:
        """The runner behind bwrap: its only child; 0: there is none."""
        if not self._nested:
            return 0
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return 0
        return int((children.split() or "0")[0])

    # -- streams

    def open(self, request: bytes) -> Stream:
        """Open a stream with *request*.

        Raises:
            RunnerFaultError: there is no runner any more.

        """
        if self.fault is not None or self._closing:
            raise RunnerFaultError(self.fault or "the sandbox is over")
        self._last += 1
        stream = self._streams[self._last] = Stream(self, self._last)
        view = memoryview(request)
        while len(view) > wire.MAX_PAYLOAD:
            part = view[: wire.MAX_PAYLOAD]
            self.send(wire.frame(wire.REQUEST_PART, stream.number, part))
            view = view[wire.MAX_PAYLOAD :]
        self.send(wire.frame(wire.REQUEST, stream.number, view))
        return stream

    def late(self, seconds: float, check: Callable[[], bool]) -> Watch:
        """Call it a fault once *check* says so, *seconds* and patience from now."""
        return Watch(seconds, self._patience, check, self.break_off)

    # -- out

    def send(self, data: bytes) -> None:
        """Send *data*, now or as soon as the socket takes it."""
        if self._out or self.fault is not None:
            self._out.append(data)
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reading side tells of the end
        if sent < len(data):
            self._out.append(memoryview(data)[sent:])
            self._loop.add_writer(self._socket, self._flush)

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._socket.send(self._out[0])
            except BlockingIOError:
                return
            except OSError:
                break
            if sent < len(self._out[0]):
                self._out[0] = memoryview(self._out[0])[sent:]
            else:
                self._out.popleft()
        self._out.clear()
        self._loop.remove_writer(self._socket)

    # -- in

    def _on_readable(self) -> None:
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self.break_off(ENDED)
            return
        try:
            for kind, number, payload in self._parser.feed(
                memoryview(self._buffer)[:size]
            ):
                self._take(kind, number, payload)
        except wire.ProtocolError as error:
            self.break_off(f"the runner broke the protocol: {error}")

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if kind == wire.HELLO:
            if self.hello.done():
                raise wire.ProtocolError("HELLO came twice")
            self.hello.set_result(payload)
            return
        stream = self._streams.get(number)
        if stream is None or not self.hello.done():
            raise wire.ProtocolError("frame for a stream that is not open")
        stream.take(kind, payload)
        if kind in (wire.DONE, wire.ERROR):
            del self._streams[number]

    def _on_stderr(self) -> None:
        try:
            data = os.read(self._stderr, _STDERR)
        except BlockingIOError:
            return
        self._said = (self._said + data)[-_STDERR:]
        if not data:
            self._loop.remove_reader(self._stderr)

    # -- the end

    def break_off(self, fault: str) -> None:
        """End the sandbox's processes and every stream because of *fault*."""
        if self.fault is None and not self._closing:
            self.fault = fault
            self._close()
            self._loop.call_later(0 if self._isolated else _GRACE, self.kill)

    def close(self) -> None:
        """End the sandbox's processes; no fault."""
        if not self._closing and self.fault is None:
            self._closing = True
            self._close()

    def _close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._out.clear()
        self._socket.close()
        error = RunnerFaultError(self.fault or "the sandbox is over")
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.break_off(error)
        if not self.hello.done():
            self.hello.set_exception(error)
            self.hello.exception()  # whoever waits gets it; nobody has to

    def kill(self) -> None:
        """Kill the runner, and with it all that is inside.

        bwrap ends when the runner, its child, is gone for good; killed itself it
        would end before.
        """
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if not self._kill_child():
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _kill_child(self) -> bool:
        if not self.inner:
            return False
        os.kill(self.inner, signal.SIGKILL)
        return True

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._on_stderr()
        self._loop.remove_reader(self._stderr)
        os.close(self._stderr)
        self.break_off(ENDED)
        if self.fault is not None:
            _log.error("runner fault", extra={"fault": self.fault, "said": self.said})
        self.ended.set_result(None)
