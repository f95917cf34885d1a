"""A server: how far we come with it, and where it ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from serving.doctor._check import Check
from serving.doctor._remedies import remedy
from tlsloader import Allowlist
from tlsloader.facts import Facts
from tlsloader.probe import Address, Probed, probe, resolve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from serving.doctor._settings import Settings
    from tlsloader import Material

__all__ = ["checks", "judged"]

_TLS: Final = frozenset(
    ("handshake_failed", "no_http2", "no_shared_cipher", "not_tls", "tls_version")
)
"""Reasons for which no talk begins, whoever is there."""

_NAMED: Final = "have it issued with that DNS name, or leave out --server-name"


async def checks(
    settings: Settings, target: str, own: Material, left: Callable[[], float]
) -> AsyncIterator[Check]:
    """Yield what there is to say about *target*; *left* tells the seconds to go."""
    address = Address.parse(target)
    try:
        async with asyncio.timeout(left() / 2):
            places = await resolve(address)
    except OSError as error:
        yield _nowhere(address, error)
        return
    yield Check.ok("address", _leads(address, places))
    expected = Allowlist(settings.expect) if settings.expect else _own_domain(own)
    tries = [
        probe(
            place, own, expected, timeout=left(), minimum_tls=settings.tls_min_version
        )
        for place in places
    ]
    met = await asyncio.gather(*tries)
    # A dialer takes the first address that is proven, whatever the others are
    enough = any(probed.error is None for probed in met)
    for probed in met:
        for check in judged(probed, own, settings.server_name):
            yield check.softened() if enough and probed.error is not None else check


def judged(probed: Probed, own: Material, server_name: str | None) -> Iterator[Check]:
    """Yield each step on the way to one address, up to the one that fails."""
    seen, error, where = probed.seen, probed.error, f"at {probed.place}"
    if error is not None and not seen.connected:
        yield Check.failed(f"connection {where}", error)
        return
    yield Check.ok(f"connection {where}", "somebody listens")
    unheard = not seen.version and probed.against is None
    if error is not None and (error.reason in _TLS or unheard):
        yield Check.failed(f"TLS {where}", error)
        return
    yield Check.ok(f"TLS {where}", f"{seen.version}, {seen.cipher}")
    facts = _shown(seen.chain)
    if probed.against is not None:
        yield _beside(Check.failed(f"server {where}", probed.against), facts)
        return
    if facts is not None:
        yield Check.ok(f"server {where}", f"{_whom(facts)}, until {facts.end:%F %T}")
    if server_name is not None:
        yield _named(f"name {where}", server_name, facts)
    if error is not None:
        yield Check.failed(f"admission {where}", error)
    else:
        yield Check.ok(f"admission {where}", f"the server takes us, {own.identity}")


def _nowhere(address: Address, error: OSError) -> Check:
    why = "no answer in time" if isinstance(error, TimeoutError) else error.strerror
    detail = f"the name in {address} leads nowhere: {why}"
    return Check("address", "failed", detail, remedy("unreachable"), "unreachable")


def _leads(address: Address, places: Sequence[Address]) -> str:
    if list(places) == [address]:
        return f"{address}, no name to look up"
    return f"{address} leads to {', '.join(map(str, places))}"


def _own_domain(own: Material) -> Allowlist:
    return Allowlist.parse(f"spiffe://{own.identity.trust_domain}/")


def _shown(chain: Sequence[bytes]) -> Facts | None:
    try:
        return Facts.read(chain[0]) if chain else None
    except ValueError:
        return None


def _whom(facts: Facts) -> str:
    if facts.uris:
        return f"presents {', '.join(facts.uris)}"
    if facts.dns:
        return f"presents no SPIFFE ID, but the DNS names {', '.join(facts.dns)}"
    return f"presents no SPIFFE ID, but the subject {facts.subject or '(none)'}"


def _beside(check: Check, facts: Facts | None) -> Check:
    """Return *check* with whom the server presents, unless its text says so."""
    if facts is None or any(each in check.detail for each in facts.uris):
        return check
    return replace(check, detail=f"{check.detail}; it {_whom(facts)}")


def _named(name: str, wanted: str, facts: Facts | None) -> Check:
    names = facts.dns if facts is not None else ()
    if wanted in names:
        return Check.ok(name, f"the certificate holds the DNS name {wanted}")
    shown = ", ".join(names) or "none"
    detail = f"the certificate lacks the DNS name {wanted}; its DNS names: {shown}"
    return Check(name, "failed", detail, _NAMED)
