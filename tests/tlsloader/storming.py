"""A program that comes to a door a thousand times at once.

Run with the address, from where to come, a folder of identities, and how many of each
kind. It says what became of those that wanted to be let in, and holds all others until
its input ends.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.tlsloader.transport import PREFACE, SETTINGS

WORDS = {
    "silent": b"",
    "garbage": bytes(range(256)) * 20,
    "half": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


def careless(file: Path) -> ssl.SSLContext:
    """Make the context of a client that trusts all and shows what *file* holds."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(["h2"])
    made.load_cert_chain(file)
    return made


async def hold(how: dict[str, Any], word: bytes, over: asyncio.Event) -> str:
    """Connect, say *word*, and stay as long as we may."""
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(**how)
        writer.write(word)
        gone = asyncio.ensure_future(reader.read())
        await asyncio.wait(
            (gone, asyncio.ensure_future(over.wait())),
            return_when=asyncio.FIRST_COMPLETED,
        )
        gone.cancel()
        writer.transport.abort()
    return "held"


async def enter(how: dict[str, Any], context: ssl.SSLContext) -> str:
    """Shake hands and wait for SETTINGS."""
    tls: Any = {"ssl": context, "server_hostname": "x", "ssl_handshake_timeout": 60}
    answer = b""
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(**how, **tls)
        writer.write(PREFACE)
        answer = await reader.read(65536)
        writer.transport.abort()
    return "served" if answer[3:4] == bytes((SETTINGS,)) else "refused"


async def main(place: str, origin: str, folder: Path, each: int) -> None:
    host, _, port = place.rpartition(":")
    how = {"host": host, "port": int(port), "local_addr": (origin, 0)}
    over = asyncio.Event()
    files = sorted(folder.glob("*.pem"))  # noqa: ASYNC240 -- nothing runs yet
    waiting = [
        asyncio.ensure_future(hold(how, word, over))
        for _ in range(each)
        for word in WORDS.values()
    ]
    knocking = {
        file.stem: [asyncio.ensure_future(enter(how, context)) for _ in range(each)]
        for file in files
        for context in [careless(file)]
    }
    say({"storming": len(waiting) + each * len(files)})
    ends = {
        kind: Counter(await asyncio.gather(*tasks)) for kind, tasks in knocking.items()
    }
    say(ends)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    over.set()
    await asyncio.gather(*waiting)


def say(what: object) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 -- what this program is for


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
