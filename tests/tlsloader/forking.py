"""A program that forks while it has a channel, and misuses it in the child.

Run with the address of a door, the folder of our identity, and what the child does.
The child prints what came of it, then the parent whether it still works.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from clock import SYSTEM
from tests.tlsloader.raw import HEADERS, asking
from tests.tlsloader.transport import PICOD, PREFACE, Way, way
from tlsloader import FixedSource, ForkedError, Material, Paths
from tlsloader._frames import frame
from tlsloader.grpc import channel

if TYPE_CHECKING:
    from collections.abc import Callable


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 -- what this program is for


def use(out: Way, begin: Any) -> None:
    """Call on the channel, by what was prepared before and after, and on a new one."""
    ways: dict[str, Callable[[], Any]] = {
        "prepared": lambda: begin(b"x", timeout=5),
        "fresh": out.both,
        "state": out.channel.get_state,
        "new": lambda: channel(out.target),
    }
    for name, act in ways.items():
        try:
            act()
        except ForkedError as error:
            say(did=name, failed=str(error))
        else:
            say(did=name, failed=None)


def speak(_out: Way, _begin: Any) -> None:
    """Write to every socket there is, and read."""
    alive = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            connection = socket.socket(fileno=int(name))
        except OSError:
            continue
        try:
            inner = {socket.AF_INET, socket.AF_UNIX}
            if connection.family in inner and connection.getsockname() != "":
                connection.setblocking(False)  # noqa: FBT003
                connection.send(b"from the child")
                alive += 1
        except OSError:
            pass
        finally:
            connection.detach()
    say(did="speak", alive=alive)


def come(out: Way, _begin: Any) -> None:
    """Connect to the private socket anew, and call."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(out.target.removeprefix("unix:"))
        caller.sendall(PREFACE + frame(HEADERS, 5, 1, asking("Echo")))
        heard = b""
        while data := caller.recv(65536):
            heard += data
    say(did="come", heard=heard.decode(errors="replace"))


def tidy(out: Way, _begin: Any) -> None:
    """Close everything, as a careful program does at its end."""

    async def close() -> None:
        async with asyncio.timeout(5):
            await out.channel.close()
            await out.dialer.drain(60)
            await out.dialer.aclose()

    asyncio.run(close())
    say(did="tidy")


def leave(_out: Way, _begin: Any) -> None:
    """Leave by the way the parent came, through all its blocks, on its loop."""
    raise SystemExit(3)


DEEDS: dict[str, Callable[[Way, Any], None]] = {
    "use": use,
    "speak": speak,
    "come": come,
    "tidy": tidy,
    "leave": leave,
}


async def main(address: str, folder: Path, deed: str) -> None:
    paths = Paths(folder / "key.pem", folder / "svid.pem", folder / "bundle.pem")
    source = FixedSource(Material.load(paths, now=SYSTEM.now()))
    async with way(source, address, expected=PICOD) as out:
        begin: Any = out.channel.unary_unary("/test.Service/Echo")
        stream = out.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # what hangs is killed by it
            DEEDS[deed](out, begin)
            os._exit(0)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        await stream.write(b"y")
        assert await stream.read() == b"y"
        assert await begin(b"z", timeout=5) == b"z"
        assert await out.call() == b"hello"
        left = os.path.exists(out.target.removeprefix("unix:"))  # noqa: ASYNC240, PTH110
        say(did="parent", child=status, left=left)


if __name__ == "__main__":
    factory = {"asyncio": None, "uvloop": uvloop.new_event_loop}[sys.argv[4]]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
