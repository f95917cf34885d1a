"""Our own identity: what is well with it, and what soon will not be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serving.doctor._check import Check
from tlsloader.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta
    from pathlib import Path

    from serving.doctor._settings import Settings
    from tlsloader import Material, TrustBundle

__all__ = ["checks", "source_of"]

_ENOUGH: Final = 1 / 3
"""The share of a life that is left when whoever renews at half has missed it."""

_UNITS: Final = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
_RENEWED: Final = (
    "it should have been renewed at half of its life: see that whoever issues it runs"
)
_SUCCESSOR: Final = "add the next root before anybody signs with it, then roll over"


def source_of(settings: Settings) -> str:
    """Return where the identity is to come from, in words."""
    if settings.spiffe_endpoint_socket is not None:
        return f"the SPIFFE agent at {settings.spiffe_endpoint_socket}"
    if settings.mtls_credential_bundle_file is not None:
        return f"the credential bundle {settings.mtls_credential_bundle_file}"
    return f"the files {settings.mtls_cert_file} and {settings.mtls_key_file}"


def checks(settings: Settings, material: Material, now: datetime) -> Iterator[Check]:
    """Yield what there is to say about *material* at *now*; blocks for a moment."""
    leaf = Facts.read(material.chain)
    whom = f"{material.identity} of the trust domain {material.identity.trust_domain}"
    yield Check.ok("identity", f"{whom}, from {source_of(settings)}")
    detail = f"serial {leaf.serial}, SHA-256 {leaf.sha256}, {leaf.key}"
    yield Check.ok("certificate", f"{detail}, signed with {leaf.signature}")
    yield _validity(leaf, material.not_after, now)
    if settings.tls is not None:
        yield _rights(settings.tls.key)
    for name in sorted(material.bundles):
        yield _bundle(material.bundles[name], now)


def _validity(leaf: Facts, end: datetime, now: datetime) -> Check:
    share = leaf.share_left(now, end)
    detail = (
        f"from {leaf.begin:%F %T} until {end:%F %T} UTC; "
        f"{_span(end - now)} or {share:.0%} of its life left"
    )
    if end < leaf.end:
        detail += f" (its own date is {leaf.end:%F %T}, but an authority ends before)"
    if share < _ENOUGH:
        return Check.warning("validity", detail, _RENEWED)
    return Check.ok("validity", detail)


def _rights(key: Path) -> Check:
    try:
        mode = key.stat().st_mode & 0o777
    except OSError as error:  # it was there a moment ago
        text = f"the rights of {key} cannot be seen: {error.strerror}"
        return Check.warning("key file", text, "look again")
    detail = f"{key} has the mode {mode:04o}"
    if mode & 0o077:
        hint = f"others than its owner can reach our private key: chmod 0600 {key}"
        return Check.warning("key file", detail, hint)
    return Check.ok("key file", detail)


def _bundle(bundle: TrustBundle, now: datetime) -> Check:
    name = f"bundle of {bundle.trust_domain}"
    roots = [Facts.of(each) for each in bundle.certificates]
    if not roots:
        return Check.warning(name, "it holds no root: nobody is trusted", "get it anew")
    told = (f"SHA-256 {root.sha256[:16]}… until {root.end:%F %T}" for root in roots)
    detail = f"fingerprint {bundle.short_fingerprint}; roots: {', '.join(told)}"
    if max(root.share_left(now) for root in roots) < _ENOUGH:
        return Check.warning(name, detail, f"its last root ends soon: {_SUCCESSOR}")
    return Check.ok(name, detail)


def _span(left: timedelta) -> str:
    """Return *left* in the largest unit of which there are two."""
    seconds = max(0, int(left.total_seconds()))
    size, unit = next(
        (each for each in _UNITS if seconds >= 2 * each[0]), (1, "seconds")
    )
    return f"{seconds // size} {unit}"
