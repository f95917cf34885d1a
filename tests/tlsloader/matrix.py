"""The rejection matrix: every bad peer, as client and as server, by TLS 1.2 and 1.3.

``make matrix`` prints it as a table, one row a peer. A cell holds the reason that our
log and our figures tell; the peer itself must learn nothing: no byte of HTTP/2, and no
alert. The first row is a good peer, which must be let in, so that nothing below is
refused for the way in which it was tried.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.forge import Forge, Svid
from tests.tlsloader.transport import (
    PICOD,
    PREFACE,
    ROUTER,
    STRANGER,
    hosted,
    show,
    speak_only,
    until,
    way,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

__all__ = ["COLUMNS", "Column", "Shown", "Verdict", "column", "context_of", "knock"]

# OpenSSL, which sees the chain first, has one word for all that is wrong with it; and
# with TLS 1.2 its servers have no use for a key that may not sign
COARSE = frozenset(("untrusted_chain", "wrong_purpose"))
UNUSABLE = {"no_digital_signature": "refused_by_peer"}
PARTNER = "spiffe://partner.test/ns/x/sa/planner"


@dataclass(frozen=True)
class Column:
    """In which role a peer comes, and by which version of TLS."""

    role: str
    version: str

    @property
    def identity(self) -> str:
        """Whom the peer claims to be: the one that we would let in."""
        return ROUTER if self.role == "client" else PICOD

    def __str__(self) -> str:
        return f"as {self.role}, {self.version}"


COLUMNS = [
    Column(role, version) for role in ("client", "server") for version in ("1.2", "1.3")
]


@dataclass(frozen=True)
class Shown:
    """A peer by what it shows; ``svid=None``: no certificate at all."""

    title: str
    reason: str
    svid: Svid | None
    alpn: str = "h2"
    tls: bool = True


@dataclass
class Verdict:
    """What became of a peer.

    ``counted`` and ``logged`` are the reasons that we tell, ``said`` is what our own
    callers read; ``learned`` is all that the peer does: bytes of HTTP/2, or an alert.
    """

    shown: Shown
    accepted: bool = False
    counted: str = ""
    logged: str = ""
    said: str = ""
    learned: str = ""

    @property
    def held(self) -> bool:
        """Whether it was refused, for its own reason, and in silence."""
        reason = self.shown.reason
        known = {reason, UNUSABLE.get(reason), *(COARSE if self.shown.svid else ())}
        refused = not (self.accepted or self.learned)
        return refused and self.counted == self.logged and self.counted in known


def peers(forge: Forge, partner: Forge, column: Column) -> Iterator[Shown]:
    """Yield who comes in *column*: a good one first, then all bad ones."""
    identity = column.identity
    good = forge.svid(identity)
    yield Shown("a good peer", "", good)
    for case in forge.bad_cases(identity):
        yield Shown(case.title, case.reason, case.chain)
    others = {
        "a valid identity of somebody else": STRANGER,
        "an identity that begins like the right one": f"{identity}2",
        "an identity below the right one": f"{identity}/x",
        "the user beside the service": identity.replace("/sa/", "/user/"),
    }
    for title, other in others.items():
        yield Shown(title, "not_admitted", forge.svid(other))
    title = "a partner's CA, which we know, vouches for it"
    yield Shown(title, "untrusted_chain", partner.svid(identity))
    known = "untrusted_chain" if column.role == "client" else "unknown_trust_domain"
    yield Shown("our CA vouches for a partner", known, forge.svid(PARTNER))
    yield Shown("no HTTP/2 (ALPN)", "no_http2", good, alpn="http/1.1")
    yield Shown("no TLS", "not_tls", None, tls=False)
    if column.role == "client":
        yield Shown("no certificate", "no_certificate", None)


async def column(of: Column) -> list[Verdict]:
    """Try every peer in one column."""
    forge, partner = Forge(), Forge("partner.test")
    # Without key identifiers, OpenSSL tells roots apart by their names
    partner.root = partner.signer(subject="the partner's CA")
    trying = _as_client if of.role == "client" else _as_server
    async with trying(forge, partner, of.version) as attempt:
        return [await attempt(shown) for shown in peers(forge, partner, of)]


@asynccontextmanager
async def _as_client(
    forge: Forge, partner: Forge, version: str
) -> AsyncIterator[Callable[[Shown], Any]]:
    source: Any = forge.source(PICOD, foreign=[partner])
    allow = f"{ROUTER},{PARTNER}"
    async with hosted(source, allow=allow, minimum_tls="1.2") as node:
        refusals = node.acceptor.refusals

        async def attempt(shown: Shown) -> Verdict:
            verdict, before = Verdict(shown), refusals.copy()
            with _logged("peer refused") as reasons:
                context = context_of(ssl.PROTOCOL_TLS_CLIENT, shown, version)
                heard = await asyncio.to_thread(knock, node.address, context)
                verdict.accepted = heard.startswith("SETTINGS")
                if not verdict.accepted:
                    await until(lambda: refusals != before)
            verdict.learned = "" if verdict.accepted else heard
            verdict.counted = ", ".join((refusals - before).keys())
            verdict.logged = ", ".join(reasons)
            return verdict

        yield attempt


@asynccontextmanager
async def _as_server(
    forge: Forge, partner: Forge, version: str
) -> AsyncIterator[Callable[[Shown], Any]]:
    source = forge.source(ROUTER, foreign=[partner])

    async def attempt(shown: Shown) -> Verdict:
        verdict = Verdict(shown)
        context = context_of(ssl.PROTOCOL_TLS_SERVER, shown, version)
        with (
            _logged("dial failed") as reasons,
            socket.create_server(("127.0.0.1", 0)) as listening,
        ):
            address = "{}:{}".format(*listening.getsockname())
            serving = asyncio.to_thread(serve, listening, context)
            learning = asyncio.ensure_future(serving)
            async with way(source, address, minimum_tls="1.2") as out:
                opened: Any = out.channel
                call = opened.unary_unary("/test.Service/Echo")(b"x", timeout=5)
                verdict.said = await call.details()
                verdict.learned = await learning
                verdict.accepted = verdict.learned.startswith("PRI")
                if verdict.accepted:
                    verdict.learned = ""
                verdict.counted = ", ".join(out.dialer.tally.refusals)
        verdict.logged = ", ".join(dict.fromkeys(reasons))
        return verdict

    yield attempt


def context_of(kind: int, shown: Shown, version: str) -> ssl.SSLContext | None:
    if not shown.tls:
        return None
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([shown.alpn])
    context.set_ciphers("ALL:@SECLEVEL=0")
    speak_only(context, version)
    if shown.svid is not None:
        show(context, shown.svid)
    return context


def knock(address: str, context: ssl.SSLContext | None) -> str:
    """Connect, speak first, and return all that is learned."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        try:
            if context is None:
                plain.sendall(PREFACE)
                heard = plain.recv(65536)
            else:
                with context.wrap_socket(plain, server_hostname="x") as secure:
                    secure.sendall(PREFACE)
                    heard = secure.recv(65536)
        except OSError as error:
            return _told(error)
    return "SETTINGS" if heard[3:4] == b"\4" else repr(heard) if heard else ""


def serve(listening: socket.socket, context: ssl.SSLContext | None) -> str:
    """Take one connection in, and return all that is learned from it."""
    listening.settimeout(10)
    plain, _ = listening.accept()
    with plain:
        plain.settimeout(10)
        try:
            if context is None:
                plain.sendall(PREFACE)
                plain.recv(65536)  # a ClientHello, which is public
                heard = plain.recv(65536)
            else:
                with context.wrap_socket(plain, server_side=True) as secure:
                    secure.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
                    heard = secure.recv(65536)
        except OSError as error:
            return _told(error)
    return heard[:3].decode() if heard.startswith(b"PRI") else heard.hex()


def _told(error: OSError) -> str:
    """Return the alert by which we were told something; an end tells nothing."""
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return reason if reason and "ALERT" in reason else ""


@contextmanager
def _logged(event: str) -> Iterator[list[str]]:
    """Collect the reasons that are logged with *event* while the block runs."""
    reasons: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.message == event:
                reasons.append(vars(record)["reason"])

        def handle(self, record: logging.LogRecord) -> bool:
            record.message = record.getMessage()
            self.emit(record)
            return True

    logger, collector = logging.getLogger("tlsloader"), Collector()
    logger.addHandler(collector)
    try:
        yield reasons
    finally:
        logger.removeHandler(collector)


def table(columns: dict[Column, list[Verdict]]) -> Iterator[str]:
    """Yield the lines of the table."""
    rows: dict[str, dict[Column, Verdict]] = {}
    for at, verdicts in columns.items():
        for verdict in verdicts:
            rows.setdefault(verdict.shown.title, {})[at] = verdict
    wide = max(map(len, rows))
    yield "  ".join([f"{'peer':{wide}}", *(f"{at!s:22}" for at in columns)]).rstrip()
    for title, cells in rows.items():
        shown = [f"{_cell(cells.get(at)):22}" for at in columns]
        yield "  ".join([f"{title:{wide}}", *shown]).rstrip()
    yield ""
    for at, verdicts in columns.items():
        bad = verdicts[1:]
        accepted = sum(verdict.accepted for verdict in bad)
        told = sum(bool(verdict.learned) for verdict in bad)
        yield f"{at}: {accepted} of {len(bad)} accepted, {told} told anything"


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    if verdict.accepted:
        return "ACCEPTED" if verdict.shown.reason else "accepted"
    return verdict.counted if verdict.held else f"{verdict.counted} (!)"


async def main() -> int:
    """Print the matrix; 1 if a bad peer was let in, or learned anything."""
    logging.getLogger("tlsloader").propagate = False
    columns = {each: await column(each) for each in COLUMNS}
    print("\n".join(table(columns)))  # noqa: T201 -- what this program is for
    good = all(verdicts[0].accepted for verdicts in columns.values())
    held = all(verdict.held for each in columns.values() for verdict in each[1:])
    return 0 if good and held else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
