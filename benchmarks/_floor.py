"""What bounds our figures: the same job by the least that can do it, in the same run.

Machines differ by ten times in what a page fault, a fork or a wake-up takes. So ours
takes turns with a bare sandbox, which has the same libraries and the same isolation,
and nothing of ours: what that takes is not ours to save. Which share of it we reach
depends on the machine far less than any time does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarks._forwarder import SERVICE
from benchmarks._series import Series
from benchmarks._servers import WrongResultError
from tlsloader.grpc import channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    import grpc.aio

    from benchmarks._drive import Undo

__all__ = ["BareSandbox", "Forks", "beside_bare", "forks"]

_PATIENCE: Final = 60.0


def beside_bare(name: str, ours: Series, bare: Series) -> dict[str, Series]:
    """Return *bare*, to see the series *name* by, and our share of it in percent.

    100: we reach what the bare one does. Of times and sizes it is how much of ours the
    bare one has, of rates how much of its own we have.
    """
    parts = _middle(ours), _middle(bare)
    less, more = parts if ours.better == "higher" else parts[::-1]
    found = {f"bare {name}": bare.beside()}
    if more:  # else nothing came of it in so short a time
        share = Series("%", "higher", [[100 * less / more]])
        found[f"{name} of bare"] = share
    return found


def _middle(series: Series) -> float:
    return series.percentile(50) if series.histogram else series.typical


@dataclass(frozen=True, slots=True)
class BareSandbox:
    """A bare sandbox that is ready at ``address``."""

    address: str
    _line: socket.socket
    _costs: list[dict[str, float]]

    async def run(self) -> None:
        """Have ``1+1`` evaluated in it, by one call.

        Raises:
            WrongResultError: it is not 2.
        """
        async with channel(self.address) as opened:
            ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
            ask = opened.unary_unary(f"/{SERVICE}/Run")
            if (got := await ask(b"1+1", timeout=_PATIENCE)) != b"2":
                raise WrongResultError(got)

    async def end(self) -> None:
        """End it, note what it has cost, and return once it is over."""
        loop, said = asyncio.get_running_loop(), b""
        with self._line:
            self._line.shutdown(socket.SHUT_WR)
            while part := await loop.sock_recv(self._line, 1024):
                said += part
        self._costs.append(json.loads(said))


@dataclass(frozen=True, slots=True)
class Forks:
    """A fork server of bare sandboxes, which is the process *pid*."""

    pid: int
    _orders: socket.socket
    _folder: Path
    _numbers: Iterator[int] = field(default_factory=count)
    _costs: list[dict[str, float]] = field(default_factory=list)

    async def start(
        self,
        messages: Mapping[str, Sequence[str]] | None = None,
        identity: Sequence[Path] = (),
        admit: str = "",
    ) -> BareSandbox:
        """Have a sandbox started.

        It plays back *messages*, in hexadecimal, by method; with an *identity* (key,
        chain, bundle) it speaks TLS, and only with whom it may *admit*.
        """
        address = f"unix:{self._folder}/{next(self._numbers)}"
        order = {
            "listen": address,
            "messages": messages or {},
            "identity": [*map(str, identity)],
            "admit": admit,
        }
        line, theirs = socket.socketpair()
        line.setblocking(False)  # noqa: FBT003
        try:
            with theirs:
                told = [json.dumps(order).encode()]
                socket.send_fds(self._orders, told, [theirs.fileno()])
            await _ready(line)
        except BaseException:
            line.close()
            raise
        return BareSandbox(address, line, self._costs)

    async def first_result(self) -> Undo:
        """Start a sandbox and have its first result; return what ends it."""
        made = await self.start()
        try:
            await made.run()
        except BaseException:
            await asyncio.shield(made.end())
            raise
        return made.end

    def costs(self) -> dict[str, Series]:
        """Return what the sandboxes that have ended have cost: how much of what."""
        units = {"faults": "", "kernel": "ms", "processor": "ms"}
        return {
            f"bare {name}": Series(
                unit, "beside", [[each[name] for each in self._costs]]
            )
            for name, unit in units.items()
        }


async def _ready(line: socket.socket) -> None:
    async with asyncio.timeout(_PATIENCE):
        if not await asyncio.get_running_loop().sock_recv(line, 8):
            raise RuntimeError("a bare sandbox ended before it was ready")


@asynccontextmanager
async def forks() -> AsyncIterator[Forks]:
    """Run a fork server; end its sandboxes before the block."""
    orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    orders.setblocking(False)  # noqa: FBT003
    with orders, TemporaryDirectory(prefix="cubemesh-bench-") as folder:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks._bare"), stdin=theirs.fileno()
            )
        try:
            await _ready(orders)
            yield Forks(process.pid, orders, Path(folder))
        finally:
            process.kill()
            await process.wait()
