"""What an agent says, as a snapshot to judge: the answer's DER put into PEM.

Source: SPIFFE Workload API, section 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsloader._der import certificates_to_pem, key_to_pem
from tlsloader._errors import InvalidSpiffeIDError, MaterialError
from tlsloader._files import Text
from tlsloader._snapshot import Snapshot
from tlsloader._spiffe import SpiffeID

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from spiffe._proto.workload_pb2 import X509SVID, X509SVIDResponse

    from tlsloader._snapshot import Found

__all__ = ["domain_of", "pick", "snapshot"]


def pick(
    said: X509SVIDResponse, wanted: SpiffeID | None, current: SpiffeID | None
) -> X509SVID:
    """Return the SVID to be: the *wanted*, else the *current*, else the first.

    Agents give several in no useful order; one that we already are is kept.

    Raises:
        MaterialError: the answer holds none, or not the wanted one.
    """
    by_id = {svid.spiffe_id: svid for svid in reversed(said.svids)}
    if wanted is not None:
        if (svid := by_id.get(str(wanted))) is None:
            text = f"the agent offers {', '.join(by_id) or 'nobody'}, not {wanted}"
            raise MaterialError("identity_not_offered", text)
        return svid
    if not by_id:
        raise MaterialError("no_identity", "the agent's answer holds no identity")
    return by_id.get(str(current)) or said.svids[0]


def snapshot(
    svid: X509SVID, federated: Mapping[str, bytes], files: Mapping[str, Found]
) -> Snapshot:
    """Return *svid* with the bundles of other trust domains, to be judged.

    A domain that has a file of its own is judged by that file alone: bundles are
    never merged. A federated bundle without a root trusts nobody, and is left out.

    Raises:
        MaterialError: our own part of the answer is not well-formed.
    """
    who = f"the Workload API's {svid.spiffe_id}"
    foreign = {domain: found for domain, found in _federated(federated) if found}
    return Snapshot(
        Text(f"the key of {who}", key_to_pem(svid.x509_svid_key)),
        Text(f"the chain of {who}", certificates_to_pem(svid.x509_svid, who)),
        Text(f"the bundle of {who}", certificates_to_pem(svid.bundle, who)),
        foreign | dict(files),
        svid.spiffe_id,
    )


def _federated(federated: Mapping[str, bytes]) -> Iterator[tuple[str, Found | None]]:
    """Yield what there is of each domain; a fault of its name under that name."""
    for text, der in federated.items():
        name = f"the federated bundle of {text}"
        try:
            domain = domain_of(text)
        except MaterialError as error:
            yield name, error
            continue
        try:
            yield domain, Text(name, certificates_to_pem(der, name)) if der else None
        except MaterialError as error:
            yield domain, error


def domain_of(text: str) -> str:
    """Return the trust domain that an agent names *text*.

    Raises:
        MaterialError: *text* names none.
    """
    try:
        domain = SpiffeID.parse(text)
    except InvalidSpiffeIDError as error:
        raise MaterialError("bad_federated_domain", str(error)) from error
    if domain.path:
        fault = f"a bundle is of {domain}, which is no trust domain"
        raise MaterialError("bad_federated_domain", fault)
    return domain.trust_domain
