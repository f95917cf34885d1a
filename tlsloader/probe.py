"""Try one address of a server as the dialer would, and say all that is seen there."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from clock import SYSTEM
from tlsloader._address import Address, connected, resolve
from tlsloader._context import client_context, peer_chain
from tlsloader._dial import Dial, secure
from tlsloader._end import End
from tlsloader._errors import DialFailedError, PeerRefusedError
from tlsloader._verify import verify_peer

if TYPE_CHECKING:
    from clock import Clock
    from tlsloader._context import TLSVersion
    from tlsloader._matchers import Allowlist
    from tlsloader._material import Material

__all__ = ["Address", "Probed", "Seen", "probe", "resolve"]


@dataclass(frozen=True, slots=True)
class Seen:
    """How far one comes with a server, and what it shows; nothing of it is proven.

    ``version`` and ``cipher`` are OpenSSL's names, empty if no handshake succeeded;
    ``chain`` is what was presented, DER, leaf first.
    """

    connected: bool = False
    version: str = ""
    cipher: str = ""
    chain: tuple[bytes, ...] = ()

    @classmethod
    def at(cls, end: End) -> Self:
        """Return what is seen on a connection that stands."""
        tls: ssl.SSLObject = end.transport.get_extra_info("ssl_object")
        cipher = tls.cipher()
        return cls(
            connected=True,
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            chain=peer_chain(tls),
        )


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of one address.

    ``error`` is why a dial there fails, ``None`` if it does not; ``against`` is what
    speaks against the server itself, if that is known: mostly a better word for it.
    """

    place: Address
    seen: Seen
    error: DialFailedError | None = None
    against: DialFailedError | None = None


async def probe(  # noqa: PLR0913
    place: Address,
    own: Material,
    expected: Allowlist,
    *,
    timeout: float,  # noqa: ASYNC109 -- of two steps, half of it each
    minimum_tls: TLSVersion = "1.3",
    clock: Clock = SYSTEM,
) -> Probed:
    """Dial *place*, whose host is a number; if that fails, look at who is there.

    The dial is a dialer's own: the server has proven that it is *expected*, and shown
    that it takes us, or there is an error. The look shows nobody our identity, and
    believes nothing. Both end at once; *timeout* is in seconds.
    """
    context = client_context(own, expected.trust_domains, minimum_tls)
    dial = Dial(expected, place, own, context, timeout / 2, clock, resolve)
    try:
        end, _ = await dial.run()
    except DialFailedError as error:
        seen = await _look(place, timeout / 2, clock)
        if minimum_tls == "1.3" and seen.version not in {"", "TLSv1.3"}:
            # Many servers just hang up on who speaks too new a version
            text = f"the server at {place} speaks {seen.version}, not TLS 1.3"
            return Probed(place, seen, dial.failed("tls_version", text))
        return Probed(place, seen, error, _against(seen, dial, error))
    seen = Seen.at(end)
    end.transport.abort()
    return Probed(place, seen)


async def _look(place: Address, seconds: float, clock: Clock) -> Seen:
    """Say how far somebody comes who proves nothing and asks for no proof."""
    end, seen = End(), Seen()
    try:
        async with asyncio.timeout(seconds):
            sock = await connected(place, clock)
            seen = Seen(connected=True)
            await secure(end, sock, _careless(), seconds)
        seen = Seen.at(end)
    except OSError:
        return seen
    finally:
        if end.connected:
            end.transport.abort()
    return seen


def _careless() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what is shown is told, and never trusted
    context.set_alpn_protocols(["h2"])
    return context


def _against(seen: Seen, dial: Dial, error: DialFailedError) -> DialFailedError | None:
    """Return what speaks against the server that was *seen*, as well as we can tell.

    OpenSSL, which stops a dial first, has one word for all that is wrong with a chain.
    """
    if seen.chain:
        try:
            verify_peer(
                seen.chain,
                bundles=dial.own.bundles,
                allow=dial.expected,
                now=dial.clock.now(),
            )
        except PeerRefusedError as refused:
            return dial.refused(refused)
    cause = error.__cause__
    judged = isinstance(cause, ssl.SSLCertVerificationError | PeerRefusedError)
    return error if judged else None
