"""A network of its own for a sandbox: out to the internet, and to nothing near.

`pasta` or `slirp4netns` carries its packets, as the sandbox's user, and reaches what
any process of the host reaches. What must not be reached is dropped before that, by
rules in the sandbox's own network namespace, over which the code has no rights.

Source: pasta(1), slirp4netns(1), nft(8); ioctl_ns(2). Ranges: RFC 1918, RFC 6598,
RFC 3927, RFC 5737, RFC 2544, RFC 6890; IPv6 is not carried at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from clock import SYSTEM
from picod._errors import IsolationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["NAMESERVER", "Network", "Tools", "find_tools", "local_addresses", "rules"]

NAMESERVER = "192.0.2.3"
"""What answers inside; whoever carries the packets asks the host's name server."""

_GUEST, _GATEWAY, _MASK = "192.0.2.100", "192.0.2.2", "255.255.255.0"
_BLOCKED = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4"),
)
_NS_GET_USERNS = 0xB701
_PATIENCE, _PAUSE = 10.0, 0.002
_SEARCH = "/usr/local/sbin:/usr/sbin:/sbin"  # beside PATH
_DEFAULT_ROUTE = re.compile(r"^\w+\t00000000\t", re.MULTILINE)
_LOCAL = re.compile(r"\|-- ([\d.]+)\n\s+/32 host LOCAL")


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs of the host: one that carries packets, and those that fence it."""

    carrier: str
    nft: str
    nsenter: str
    setpriv: str


def find_tools() -> Tools:
    """Find what a network of its own needs.

    Raises:
        IsolationError: something is missing.

    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), _SEARCH))  # noqa: TID251

    def find(*names: str) -> str:
        found = (shutil.which(name, path=path) for name in names)
        program = next(filter(None, found), None)
        if program is None:
            raise IsolationError(
                f"allow_network needs {' or '.join(names)}, and there is none",
                "install passt (or slirp4netns), nftables and util-linux",
            )
        return program

    carrier = find("pasta", "slirp4netns")
    return Tools(carrier, find("nft"), find("nsenter"), find("setpriv"))


def local_addresses(fib_trie: str) -> Iterator[str]:
    """Yield the host's own addresses of /proc/net/fib_trie, which may be public."""
    yield from sorted(set(_LOCAL.findall(fib_trie)))


def rules(own: Iterable[str]) -> str:
    """Make the rules of nft for what leaves a sandbox; *own* are the host's addresses.

    An address is judged as it is on the wire, whatever the code bound its socket to:
    routes could be passed by.
    """
    blocked = ", ".join(_BLOCKED)
    mine = "".join(
        f"ip daddr {address} reject with icmp type admin-prohibited\n"
        for address in own
    )
    return f"""
table inet cubemesh {{
  chain out {{
    type filter hook output priority 0; policy drop;
    oif lo accept
    ip daddr {NAMESERVER} meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr {{ {blocked} }} reject with icmp type admin-prohibited
    {mine}
    meta nfproto ipv4 accept
  }}
}}
"""


class Network:
    """The network of one sandbox; it ends with `aclose`, or with us."""

    def __init__(self, carrier: subprocess.Popen[bytes]) -> None:
        self._carrier = carrier

    @classmethod
    async def attach(cls, pid: int, uid: int | None) -> Self:
        """Give the sandbox behind the bwrap *pid* its network, fenced before it works.

        Call this before the runner has code: then it is still open to us.

        Raises:
            IsolationError: not here.

        """
        tools = find_tools()
        try:
            async with asyncio.timeout(_PATIENCE):
                inner = await _settled(pid)
                with _namespaces(inner) as (network, user):
                    await asyncio.to_thread(_fence, tools, network, user, uid)
                    carrier = _carry(tools, network, user, uid)
                made = cls(carrier)
                try:
                    await made._ready(inner)
                except BaseException:
                    await made.aclose()
                    raise
        except (OSError, TimeoutError, subprocess.SubprocessError) as error:
            raise IsolationError(
                f"the sandbox has no network: {error or 'it took too long'}",
                "is /dev/net/tun there for everybody, and nf_tables in the kernel?",
            ) from error
        return made

    async def _ready(self, inner: int) -> None:
        while not _has_route(inner):
            if self._carrier.poll() is not None:
                raise OSError(f"{self._carrier.args!r} ended")
            await SYSTEM.sleep(_PAUSE)

    async def aclose(self) -> None:
        """End it."""
        self._carrier.kill()
        await asyncio.to_thread(self._carrier.wait)


async def _settled(bwrap: int) -> int:
    """Wait until bwrap has made all namespaces, and return its child in them."""
    while not (inner := _inner_of(bwrap)):
        await SYSTEM.sleep(_PAUSE)
    return inner


def _inner_of(bwrap: int) -> int:
    """Return the interpreter that bwrap has started; 0: it has not yet."""
    children = Path(f"/proc/{bwrap}/task/{bwrap}/children").read_text().split()
    for child in map(int, children):
        if not Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"bwrap\0"):
            return child
    return 0


def _has_route(pid: int) -> bool:
    routes = Path(f"/proc/{pid}/net/route").read_text(encoding="ascii")
    return bool(_DEFAULT_ROUTE.search(routes))


@contextlib.contextmanager
def _namespaces(pid: int) -> Iterator[tuple[int, int]]:
    """Open the network namespace of *pid* and the user namespace that it belongs to."""
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(network), Path("/proc/self/ns/net").stat()):
            raise OSError("it has the host's network")
        user = fcntl.ioctl(network, _NS_GET_USERNS)
        try:
            yield network, user
        finally:
            os.close(user)
    finally:
        os.close(network)


def _fence(tools: Tools, network: int, user: int, uid: int | None) -> None:
    own = local_addresses(Path("/proc/net/fib_trie").read_text(encoding="ascii"))
    done = subprocess.run(
        [
            tools.nsenter,
            *(f"--user=/proc/self/fd/{user}", f"--net=/proc/self/fd/{network}"),
            *("--preserve-credentials", tools.nft, "-f", "/dev/stdin"),
        ],
        input=rules(own).encode(),
        pass_fds=(network, user),
        env={},
        check=False,
        timeout=_PATIENCE,
        capture_output=True,
        **_as(uid),  # type: ignore[call-overload]
    )
    if done.returncode:
        raise OSError(f"nft: {done.stderr.decode(errors='replace').strip()}")


def _carry(
    tools: Tools, network: int, user: int, uid: int | None
) -> subprocess.Popen[bytes]:
    paths = f"/proc/self/fd/{network}", f"/proc/self/fd/{user}"
    flags = _pasta(*paths) if tools.carrier.endswith("pasta") else _slirp(*paths)
    carrier: subprocess.Popen[bytes] = subprocess.Popen(
        [tools.setpriv, "--pdeathsig", "KILL", tools.carrier, *flags],
        pass_fds=(network, user),
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **_as(uid),  # type: ignore[call-overload]
    )
    return carrier


def _pasta(network: str, user: str) -> Iterator[str]:
    yield from ("--foreground", "--quiet", "--ipv4-only", "--config-net")
    yield from ("--no-map-gw", "--address", _GUEST, "--netmask", _MASK)
    yield from ("--gateway", _GATEWAY, "--dns-forward", NAMESERVER)
    for forwarded in ("-t", "-u", "-T", "-U"):  # no port, in neither direction
        yield from (forwarded, "none")
    yield from ("--userns", user, "--netns", network)


def _slirp(network: str, user: str) -> Iterator[str]:
    # Its own addresses in this range are those that we give pasta.
    yield from ("--configure", "--mtu=65520", "--cidr=192.0.2.0/24")
    yield from ("--disable-host-loopback", "--enable-seccomp")
    yield from (f"--userns-path={user}", "--netns-type=path", network, "tap0")


def _as(uid: int | None) -> dict[str, object]:
    if uid is None:
        return {}
    return {"user": uid, "group": uid, "extra_groups": []}
