"""What an agent says, as a snapshot to judge: the answer's DER put into PEM.

Source: SPIFFE Workload API, section 5.
"""

from __future__ import annotations

import base64
import textwrap
from typing import TYPE_CHECKING, Final

from tlsloader._errors import InvalidSpiffeIDError, MaterialError
from tlsloader._files import Snapshot, Text
from tlsloader._spiffe import SpiffeID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from spiffe._proto.workload_pb2 import X509SVID, X509SVIDResponse

__all__ = ["pick", "snapshot"]

_SEQUENCE: Final = 0x30
_LONG_FORM: Final = 0x80
_MAX_LENGTH_BYTES: Final = 4


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
    svid: X509SVID, federated: Mapping[str, bytes], files: Mapping[str, Text]
) -> Snapshot:
    """Return *svid* with the bundles of other trust domains, for `Material.judged`.

    A domain that has a file of its own is judged by that file alone: bundles are
    never merged. A federated bundle without a root trusts nobody, and is left out.

    Raises:
        MaterialError: the answer is not well-formed.
    """
    who = f"the Workload API's {svid.spiffe_id}"
    foreign = {
        domain: Text(name, _certificates(der, name))
        for domain, name, der in _named(federated)
        if der
    }
    return Snapshot(
        Text(f"the key of {who}", _armoured("PRIVATE KEY", svid.x509_svid_key)),
        Text(f"the chain of {who}", _certificates(svid.x509_svid, who)),
        Text(f"the bundle of {who}", _certificates(svid.bundle, who)),
        foreign | dict(files),
    )


def _named(federated: Mapping[str, bytes]) -> Iterator[tuple[str, str, bytes]]:
    for text, der in federated.items():
        try:
            domain = SpiffeID.parse(text)
        except InvalidSpiffeIDError as error:
            raise MaterialError("bad_federated_domain", str(error)) from error
        if domain.path:
            fault = f"a federated bundle is of {domain}, which is no trust domain"
            raise MaterialError("bad_federated_domain", fault)
        yield domain.trust_domain, f"the federated bundle of {domain}", der


def _certificates(der: bytes, name: str) -> bytes:
    return b"".join(_armoured("CERTIFICATE", each) for each in _split(der, name))


def _split(der: bytes, name: str) -> Iterable[bytes]:
    """Yield each of the SEQUENCEs that *der* joins. Source: X.690, section 8.1.3."""
    start = 0
    while start < len(der):
        end = _end(der, start)
        if der[start] != _SEQUENCE or end is None or end > len(der):
            text = f"{name} holds something that is no row of DER certificates"
            raise MaterialError("bad_certificate", text)
        yield der[start:end]
        start = end


def _end(der: bytes, start: int) -> int | None:
    """Return where the element at *start* ends, if that can be said."""
    head = der[start + 1 : start + 2]
    if not head:
        return None
    count = head[0] & ~_LONG_FORM
    if head[0] == count:
        return start + 2 + count
    digits = der[start + 2 : start + 2 + count]
    if not 0 < count <= _MAX_LENGTH_BYTES or len(digits) < count:
        return None
    return start + 2 + count + int.from_bytes(digits)


def _armoured(label: str, der: bytes) -> bytes:
    """Return *der* as one PEM block; nothing, if it is nothing."""
    if not der:
        return b""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    block = [f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]
    return "\n".join(block).encode()
