"""What a scanner of TLS servers finds out about a door: sslyze, and openssl beside it.

What stands in a report is what was seen, title by title; `sound` is what has to be.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.piped import piped
from tests.spire.spire import BINARIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.system.doors import Door

__all__ = ["Report", "report", "sound"]

Report = dict[str, str]

_VERSIONS: Final = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3")
# sslyze asks for no protocol (ALPN), so that our doors cut it off before it has seen
# the end of an older handshake: there openssl looks as well
_FLAGS: Final = {"tls_1_0": "-tls1", "tls_1_1": "-tls1_1", "tls_1_2": "-tls1_2"}
_FINDINGS: Final = {
    "compression": ("tls_compression", "supports_compression"),
    "renegotiation": (
        "session_renegotiation",
        "is_vulnerable_to_client_renegotiation_dos",
    ),
    "sessions by id": ("session_resumption", "session_id_resumption_result"),
    "sessions by ticket": ("session_resumption", "tls_ticket_resumption_result"),
    "Heartbleed": ("heartbleed", "is_vulnerable_to_heartbleed"),
    "CCS injection": ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection"),
    "ROBOT": ("robot", "robot_result"),
}
_PLAIN: Final = {
    False: "no",
    True: "yes",
    "SERVER_IS_TLS_1_3_ONLY": "no",
    "NOT_SUPPORTED": "no",
    "NOT_VULNERABLE_RSA_NOT_SUPPORTED": "no",
    "NOT_VULNERABLE_NO_ORACLE": "no",
}
_SETTINGS: Final = re.compile(b"\0\0.\x04\0{5}", re.DOTALL)  # a server's first frame
_CHOSEN: Final = re.compile(rb"New, \S+, Cipher is ([A-Z]\S+)")
_TICKETS: Final = "ticket by TLS 1.3"  # without one there is no early data either
_NAMELESS: Final = "without a certificate"
_NAMELESS_WORDS: Final = {"ERROR": "refused", "COMPLETED": "served"}
_CURVES: Final = ("X25519", "X448", "secp256r1", "secp384r1", "secp521r1")
_SUITES: Final = {
    "1.2": (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ),
    "1.3": (
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ),
}
_SCANS: Final = (
    *("--mozilla_config", "disable", "--json_out", "-"),
    *("--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3"),
    *("--compression", "--reneg", "--resum", "--heartbleed", "--openssl_ccs"),
    *("--robot", "--elliptic_curves"),
)


def sound(minimum: str) -> Report:
    """Return what a door has to look like whose lowest version of TLS is *minimum*."""
    suites = {f"TLS {each}": _SUITES[each] for each in _SUITES if each >= minimum}
    return {
        **{_title(each): _lines(suites.get(_title(each), ())) for each in _VERSIONS},
        "curves": _lines(_CURVES),
        **dict.fromkeys(_FINDINGS, "no"),
        _TICKETS: "no",
        _NAMELESS: "refused",
    }


async def report(door: Door) -> Report:
    """Scan *door* as the caller it is made for, and as one without a certificate."""
    shown = door.rightful_files
    pair = ("--cert", str(shown / "svid.pem"), "--key", str(shown / "key.pem"))
    async with _port_of(door.address) as address:
        scan = (await _sslyze(*_SCANS, *pair, address))["scan_result"]
        nameless = await _sslyze(*_SCANS, address)
        ticket = await _gets_ticket(address, shown)
        suites = {each: _accepted(scan, each) for each in _VERSIONS}
        for version, flag in _FLAGS.items():
            suites[version] |= await _taken(flag, address, shown)
    curves = scan["elliptic_curves"]["result"]["supported_curves"]
    return {
        **{_title(version): _lines(names) for version, names in suites.items()},
        "curves": _lines(each["name"] for each in curves),
        **{title: _plain(scan, *where) for title, where in _FINDINGS.items()},
        _TICKETS: _PLAIN[ticket],
        _NAMELESS: _NAMELESS_WORDS[nameless["connectivity_status"]],
    }


def _title(version: str) -> str:
    family, major, minor = version.upper().split("_")
    return f"{family} {major}.{minor}"


def _accepted(scan: Any, version: str) -> set[str]:
    accepted = scan[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
    return {each["cipher_suite"]["openssl_name"] for each in accepted}


def _lines(names: Iterable[str]) -> str:
    return "\n".join(sorted(names)) or "no"


def _plain(scan: Any, command: str, field: str) -> str:
    attempt = scan[command]
    if attempt["status"] != "COMPLETED":
        return f"not known: {attempt['error_reason']}"
    seen = attempt["result"][field]
    return _PLAIN.get(seen, str(seen))


async def _sslyze(*argv: str) -> Any:
    """Run sslyze on one target; return what it found there."""
    words = (str(BINARIES / "sslyze"), *argv)
    async with piped(*words, stderr=asyncio.subprocess.DEVNULL, within=120) as process:
        out, _ = await process.communicate(b"")
    (found,) = json.loads(out)["server_scan_results"]
    return found


async def _taken(flag: str, address: str, shown: Path) -> set[str]:
    """Return the suites that are taken of one version: offered until none is."""
    taken: set[str] = set()
    while True:
        offer = ":".join(("ALL:COMPLEMENTOFALL", *(f"!{each}" for each in taken)))
        flags = (flag, "-cipher", f"{offer}:@SECLEVEL=0")
        async with _s_client(address, shown, *flags) as process:
            out, _ = await process.communicate(b"")
        found = _CHOSEN.search(out)
        if found is None:
            return taken
        taken.add(found[1].decode())


async def _gets_ticket(address: str, shown: Path) -> bool:
    """Whether a ticket of TLS 1.3 comes before HTTP/2 begins; afterwards none does."""
    async with _s_client(address, shown, "-tls1_3") as process:
        assert process.stdout is not None
        said = b""
        while not _SETTINGS.search(said):
            more = await process.stdout.read(4096)
            assert more, f"it was not let in: {said!r}"
            said += more
        rest, _ = await process.communicate(b"")  # what it has said is in its buffer
    return b"New Session Ticket arrived" in said + rest


def _s_client(
    address: str, shown: Path, *flags: str
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """Run ``openssl s_client`` with what is *shown* while the block runs."""
    return piped(
        *("openssl", "s_client", "-connect", address, "-alpn", "h2", *flags),
        *("-cert", str(shown / "svid.pem"), "-key", str(shown / "key.pem")),
    )


@asynccontextmanager
async def _port_of(address: str) -> AsyncIterator[str]:
    """Yield a port that leads to *address*: sslyze knows no Unix sockets."""
    if not address.startswith("unix:"):
        yield address
        return

    async def carry(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        path = address.removeprefix("unix:")
        far, forth = await asyncio.open_unix_connection(path)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(near, forth))
            group.create_task(_pump(far, back))

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # the scanner hangs up as it likes
    finally:
        writer.close()
