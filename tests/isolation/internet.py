"""A small internet for one process in namespaces of its own, and a sandbox on it.

Run as root by `unshare --net --mount`; says as JSON what the code inside reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from picod import _network
from tests.isolation.hosts import UIDS
from tests.picod.sandboxes import python, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLIC, NAMED, RESOLVER, OWN = "8.8.4.4", "8.8.8.8", "10.9.9.9", "9.9.9.2"
NEAR = (
    *(RESOLVER, "169.254.169.254", "192.168.1.1", "172.16.0.9", "100.64.0.1"),
    *("198.18.0.1", "203.0.113.9"),
)
PORT, OWN_PORT = 8080, 8081

TRY = f"""
import json, socket, struct
def reach(address, port={PORT}, bound=""):
    try:
        with socket.socket() as connection:
            connection.settimeout(3)
            if bound:
                connection.setsockopt(socket.SOL_SOCKET, 25, bound.encode())
            connection.connect((address, port))
            return connection.recv(100).decode()
    except OSError as error:
        return "refused " + (error.strerror or str(error))
def send(address, bound=""):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as box:
            box.settimeout(1)
            if bound:
                box.setsockopt(socket.SOL_SOCKET, 25, bound.encode())
            box.sendto(b"?", (address, {PORT}))
            return box.recv(100).decode()
    except OSError as error:
        return "refused " + (error.strerror or str(error))
with open("/proc/net/route") as routes:
    link = routes.read().splitlines()[1].split()[0]
public, near = {PUBLIC!r}, {NEAR!r}
print(json.dumps({{
    "public": reach(public),
    "public, UDP": send(public),
    "named": reach("far.example"),
    "near": [reach(address) for address in near],
    "near, by the link": [reach(address, bound=link) for address in near],
    "near, UDP": [send(address) for address in near],
    "near, UDP by the link": [send(address, bound=link) for address in near],
    "the host": [reach(a, {OWN_PORT}) for a in
                 ("192.0.2.2", "192.0.2.100", "127.0.0.1", {OWN!r})],
    "the host, by the link": reach({OWN!r}, {OWN_PORT}, bound=link),
    "six": reach("::1"),
}}))
"""


def serve(*, far: bool) -> None:
    """Answer on every address of this network namespace."""

    def streams(port: int) -> None:
        with socket.create_server(("0.0.0.0", port)) as server:  # noqa: S104
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"reached")

    def datagrams() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as box:
            box.bind(("0.0.0.0", PORT))  # noqa: S104
            while True:
                _, peer = box.recvfrom(100)
                box.sendto(b"reached", peer)

    def names() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as box:
            box.bind((RESOLVER, 53))
            while True:
                asked, peer = box.recvfrom(512)
                box.sendto(answer(asked), peer)

    jobs = [datagrams, names] if far else []
    for job in (*jobs, lambda: streams(PORT if far else OWN_PORT)):
        threading.Thread(target=job, daemon=True).start()


def answer(asked: bytes) -> bytes:
    """Answer a question for an address. Source: RFC 1035, section 4."""
    name_and_kind = asked[12 : asked.index(b"\0", 12) + 5]
    found = b""
    if name_and_kind[-4:-2] == b"\0\1":  # an A record
        found = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4" + socket.inet_aton(NAMED)
    counts = b"\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0"
    return asked[:2] + b"\x81\x80" + counts + name_and_kind + found


def run(*argv: str) -> None:
    subprocess.run(argv, check=True)


@contextlib.contextmanager
def internet() -> Iterator[None]:
    """Be the host: one link to a namespace in which all addresses are."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    assert unshare
    assert ip
    far = subprocess.Popen(
        [unshare, "--net", sys.executable, __file__, "far"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert far.stdout
        assert far.stdin
        far.stdout.readline()  # it has its own namespace now
        run(ip, "link", "set", "lo", "up")
        run(
            ip, "link", "add", "v0", "type", "veth", "peer", "v1", "netns", f"{far.pid}"
        )
        run(ip, "address", "add", f"{OWN}/30", "dev", "v0")
        run(ip, "link", "set", "v0", "up")
        run(ip, "route", "add", "default", "via", "9.9.9.1")
        far.stdin.write(b"\n")
        far.stdin.flush()
        far.stdout.readline()
        yield
    finally:
        far.kill()
        far.wait()


def be_far() -> None:
    """Be everything beyond the link."""
    ip = shutil.which("ip")
    assert ip
    print(flush=True)  # noqa: T201
    sys.stdin.readline()
    run(ip, "link", "set", "lo", "up")
    run(ip, "address", "add", "9.9.9.1/30", "dev", "v1")
    run(ip, "link", "set", "v1", "up")
    for address in (PUBLIC, NAMED, *NEAR):
        run(ip, "address", "add", f"{address}/32", "dev", "lo")
    serve(far=True)
    print(flush=True)  # noqa: T201
    sys.stdin.read()


def prepare(folder: Path) -> None:
    """Have a name server, and a device for everybody as udev would make it."""
    mount = shutil.which("mount")
    assert mount
    resolver, device = folder / "resolv.conf", folder / "tun"
    resolver.write_text(f"nameserver {RESOLVER}\n")
    os.mknod(device, 0o666 | 0o020000, os.makedev(10, 200))
    device.chmod(0o666)
    for made, place in ((resolver, "/etc/resolv.conf"), (device, "/dev/net/tun")):
        run(mount, "--bind", str(made), place)


def without(what: str) -> None:
    """Take the fence away, or only the host's own addresses from it."""
    rules = _network.rules
    if what == "fence":
        _network.rules = lambda own: f"# {list(own)}\n"
    elif what == "own":
        _network.rules = lambda own: rules(list(own)[:0])


async def main(carrier: str, weakened: str) -> None:
    found = _network.find_tools()
    chosen = replace(found, carrier=shutil.which(carrier) or "")
    _network.find_tools = lambda: chosen
    without(weakened)
    async with sandbox(uid=UIDS[0], network=True) as runner:
        result = await python(runner, TRY, timeout=110)
    print(result.stdout.decode() or result.stderr.decode())  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1] == "far":
        be_far()
    else:
        with tempfile.TemporaryDirectory() as place, internet():
            prepare(Path(place))
            serve(far=False)
            asyncio.run(main(*sys.argv[1:]))
            os.sync()
