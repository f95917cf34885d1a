"""Whether a leaf leads to a root: path validation by two libraries, none of ours.

Plain paths, nearly all there are, are judged by pyca/cryptography: it is memory-safe
and fast. It knows neither constraints on URIs nor Ed25519 authorities and has one word
for all that is wrong, so OpenSSL judges what it does not admit.

Why so: docs/decisions/0013-two-chain-verifiers.md. Source: RFC 5280, section 6.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)
from OpenSSL.crypto import (
    X509,
    Error,
    X509Store,
    X509StoreContext,
    X509StoreContextError,
    X509StoreFlags,
)

from tlsloader._errors import RuleBrokenError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

__all__ = ["MAX_CHAIN", "Anchors", "chain_reason"]

MAX_CHAIN: Final = 8
"""How many intermediates a chain may have."""

# What it would pass over is not plain: OpenSSL shall see it
_PLAIN_CA: Final = (
    ExtensionPolicy.webpki_defaults_ca()
    .require_not_present(x509.NameConstraints)
    .require_not_present(x509.PolicyConstraints)
    .require_not_present(x509.InhibitAnyPolicy)
)
_PLAIN_LEAF: Final = ExtensionPolicy.permit_all().require_present(
    x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
)
# A bundle's certificates are anchors, self-signed or not, within their own limits
_FLAGS: Final = X509StoreFlags.PARTIAL_CHAIN | X509StoreFlags.POLICY_CHECK

_REASONS: Final[Mapping[int, str]] = {
    7: "bad_signature",
    9: "signer_not_yet_valid",
    10: "signer_expired",
    25: "path_length_exceeded",
    26: "wrong_purpose",
    32: "signer_no_cert_sign",
    34: "unknown_critical_extension",
    42: "certificate_policy",
    43: "certificate_policy",
    47: "name_constraints",
    48: "name_constraints",
    49: "name_constraints",
    51: "name_constraints",
    52: "name_constraints",
    53: "name_constraints",
    66: "unsupported_key",
    67: "signer_unsupported_key",
    68: "weak_signature",
}
"""What OpenSSL's numbers (X509_V_ERR_…) mean; all others: ``untrusted_chain``."""


class Anchors:
    """The roots of one bundle: where a path may end."""

    def __init__(self, roots: Sequence[x509.Certificate]) -> None:
        self._plain = _plain_rules(roots) if roots else None
        self._any = tuple(map(_converted, roots))

    def path(
        self, chain: Sequence[x509.Certificate], now: datetime
    ) -> Sequence[x509.Certificate]:
        """Return a path from the first of *chain* to one of the roots, both included.

        It leads through any of the others, in whatever order they come.

        Raises:
            RuleBrokenError: there is none at *now*. Without roots nobody is trusted.
        """
        if self._plain is None:
            raise RuleBrokenError("empty_bundle", "its trust bundle is empty")
        try:
            return _plain_path(self._plain, chain, now)
        except VerificationError:
            return _any_path(self._any, chain, now)


def _plain_rules(roots: Sequence[x509.Certificate]) -> PolicyBuilder:
    return (
        PolicyBuilder()
        .store(Store(list(roots)))
        .max_chain_depth(MAX_CHAIN)
        .extension_policies(ca_policy=_PLAIN_CA, ee_policy=_PLAIN_LEAF)
    )


def _plain_path(
    rules: PolicyBuilder, chain: Sequence[x509.Certificate], now: datetime
) -> list[x509.Certificate]:
    leaf, *signers = chain
    return rules.time(now).build_client_verifier().verify(leaf, signers).chain


def _any_path(
    roots: Sequence[X509], chain: Sequence[x509.Certificate], now: datetime
) -> list[x509.Certificate]:
    store = X509Store()  # a fresh one: its time can be set only once
    for root in roots:
        store.add_cert(root)
    store.set_flags(_FLAGS)
    store.set_time(now.astimezone(UTC))
    leaf, *signers = map(_converted, chain)
    try:
        path = X509StoreContext(store, leaf, signers).get_verified_chain()
    except X509StoreContextError as error:
        code, depth, said = error.errors
        text = f"it does not lead to its trust bundle ({said}, at depth {depth})"
        raise RuleBrokenError(chain_reason(code), text) from error
    return [each.to_cryptography() for each in path]


def chain_reason(code: int) -> str:
    """Say in one stable word what OpenSSL's verification error *code* means."""
    return _REASONS.get(code, "untrusted_chain")


def _converted(certificate: x509.Certificate) -> X509:
    try:
        return X509.from_cryptography(certificate)
    except Error as error:
        text = "OpenSSL cannot read the certificate"
        raise RuleBrokenError("malformed_certificate", text) from error
