"""Several processes of one service on one port, which begin and end together."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

from serving._faults import EX_SOFTWARE, ListenError
from serving._run import announce, report, run

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    Main = Callable[[str, int], Coroutine[Any, Any, None]]

__all__ = ["run_workers"]

_PR_SET_PDEATHSIG: Final = 1  # Source: prctl(2)
_LIBC: Final = ctypes.CDLL(None)
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Worker:
    pid: int
    said: IO[str]


def run_workers(count: int, listen: str, main: Main) -> int:
    """Run what *main* returns in *count* processes; return the exit status.

    *main* is given the address of all, *listen* with its real port, and the number of
    the worker, from 0. Who listens there has to share the port (SO_REUSEPORT): the
    kernel spreads connections over the workers. Once all have announced themselves,
    this is announced for all: ``listen``, and what else each said, with commas between.

    Signals are passed on. A worker that ends, ends all: its status is that of all.
    Nothing that a fork would break may have begun: no loop, no thread, no use of gRPC.
    """
    try:
        kept = _reserved(listen)
    except ListenError as error:
        return report(error)
    with kept:
        address = f"{listen.rpartition(':')[0]}:{kept.getsockname()[1]}"
        workers = [_fork(main, address, number) for number in range(count)]
        return _Family(workers).live()


def _reserved(listen: str) -> socket.socket:
    """Keep the port of *listen* (0: any free one) for us, and for nobody before us.

    Nobody listens at a socket that is only bound: all connections go to the workers.

    Raises:
        ListenError: the address is in use, or not ours to take.
    """
    host, _, port = listen.rpartition(":")
    try:
        family, where = _resolved(host.strip("[]"), int(port))
        kept = socket.socket(family, socket.SOCK_STREAM)
        try:
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.bind(where)
            # Shared only now: the bind fails where another service shares its port
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError:
            kept.close()
            raise
    except OSError as error:
        raise ListenError(listen, error) from error
    return kept


def _resolved(host: str, port: int) -> tuple[int, Any]:
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    found = socket.getaddrinfo(host or None, port, type=kind, flags=flags)
    family, _, _, _, where = found[0]
    return family, where


def _fork(main: Main, address: str, number: int) -> _Worker:
    parent, (ours, theirs) = os.getpid(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_worker(parent, theirs, lambda: run(main(address, number)))
    os.close(theirs)
    return _Worker(pid, os.fdopen(ours, encoding="ascii"))


def _be_worker(parent: int, said: int, work: Callable[[], int]) -> NoReturn:
    """Do *work* and end with its status; what is announced goes to *said*."""
    status = EX_SOFTWARE
    try:
        os.setpgid(0, 0)  # Ctrl-C is for the parent, which passes it on once
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() == parent:
            os.dup2(said, 1)
            os.close(said)
            status = work()
    finally:
        logging.shutdown()
        os._exit(status)


class _Family:
    """The parent's side of the workers."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._living = {worker.pid: worker for worker in workers}
        self._stopping = False

    def live(self) -> int:
        """Announce the workers, and wait for their end."""
        for each in _STOPS:
            signal.signal(each, lambda number, _: self._stop(number))
        lines = [worker.said.readline() for worker in self._living.values()]
        if all(lines):
            announce(**_merged([json.loads(line) for line in lines]))
        status = self._buried()
        if not self._stopping:
            _log.error("a worker ended; so do all", extra={"status": status})
            self._stop(signal.SIGTERM)
        while self._living:
            status = self._buried() or status
        return status

    def _stop(self, number: int) -> None:
        self._stopping = True
        for pid in self._living:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _buried(self) -> int:
        """Wait until one has ended; return its status, as a shell would tell it."""
        pid, ended = os.wait()
        self._living.pop(pid).said.close()
        status = os.waitstatus_to_exitcode(ended)
        return status if status >= 0 else 128 - status


def _merged(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what one ready line tells of all."""
    said = {key for key in lines[0] if key not in {"ready", "listen"}}
    more = {key: ",".join(line[key] for line in lines) for key in sorted(said)}
    return {"listen": lines[0]["listen"], **more}
