"""The demo's proofs about identity: who showed which certificate, who was turned away.

Each is told by both sides: what one presented must be what the other one saw.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cubemesh._plan import ROUTER_ID, SANDBOX_TRUST_DOMAIN, TRUST_DOMAIN
from cubemesh._plan import WORKLOADMANAGER_ID as MANAGER_ID

if TYPE_CHECKING:
    from pathlib import Path

    from cubemesh._demo_mesh import DemoMesh, Record
    from cubemesh._identity import Identity

# Source: RFC 9113, section 3.4 (the preface), and 6.5 (an empty SETTINGS frame).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_ANSWER_WITHIN = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Hop:
    """One connection; leaves as SHA-256. ``match`` if both sides tell the same."""

    source: str
    target: str
    source_id: str
    target_id: str
    source_presented: str
    source_seen: str
    target_presented: str
    target_seen: str

    @property
    def match(self) -> bool:
        """Say whether each side saw exactly what the other one presented."""
        return (
            bool(self.source_presented and self.target_presented)
            and self.source_presented == self.source_seen
            and self.target_presented == self.target_seen
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A caller that was turned away; ``reason`` and ``detail`` are from the log.

    ``answered`` is how many bytes of HTTP/2 it got, ``rightful_answered`` how many the
    same bytes brought a caller who may.
    """

    door: str
    presented: str
    reason: str
    detail: str
    answered: int
    rightful_answered: int

    @property
    def held(self) -> bool:
        """Say whether the door refused this caller, for a reason, and only this one."""
        refused = bool(self.reason) and self.answered == 0
        return refused and self.rightful_answered > 0


class _Door(NamedTuple):
    name: str
    address: str
    log: str
    bundle: Path
    rightful: tuple[Path, Path]
    wrong: tuple[Path, Path]
    wrong_id: str


class _Knock(NamedTuple):
    answered: int
    leaf_sha256: str


async def hops(mesh: DemoMesh, sandbox_id: str, client: Identity) -> list[Hop]:
    """Return each hop of a call, as both of its ends tell it."""
    sandbox = (
        f"spiffe://{SANDBOX_TRUST_DOMAIN}/ns/agentcube-system/sandbox/{sandbox_id}"
    )
    return [
        await _first_hop(mesh, client),
        await _inner_hop(mesh, "workloadmanager", "workloadmanager", MANAGER_ID),
        await _inner_hop(mesh, "picod", sandbox_id, sandbox),
    ]


async def refusals(mesh: DemoMesh, sandbox_id: str) -> list[Refusal]:
    """Knock at each door with a valid certificate that names the wrong one."""
    return [await _refused(mesh, door) for door in _doors(mesh, sandbox_id)]


async def _first_hop(mesh: DemoMesh, client: Identity) -> Hop:
    log = await mesh.find("router", "peer admitted", door="front") or {}
    # gRPC does not tell which certificate it accepted: look with the same files.
    door = _doors(mesh, "")[-1]
    seen = await _knock(door.address, door.bundle, *door.rightful)
    return Hop(
        source="client",
        target="router",
        source_id=str(log.get("peer_id", "")),
        target_id=str(log.get("own_id", "")),
        source_presented=client.leaf_sha256,
        source_seen=str(log.get("peer_leaf_sha256", "")),
        target_presented=str(log.get("own_leaf_sha256", "")),
        target_seen=seen.leaf_sha256,
    )


async def _inner_hop(mesh: DemoMesh, target: str, log: str, target_id: str) -> Hop:
    ours: Record = await mesh.find("router", "peer proven", peer_id=target_id) or {}
    theirs: Record = await mesh.find(log, "peer admitted", peer_id=ROUTER_ID) or {}
    return Hop(
        source="router",
        target=target,
        source_id=str(theirs.get("peer_id", "")),
        target_id=str(ours.get("peer_id", "")),
        source_presented=str(ours.get("own_leaf_sha256", "")),
        source_seen=str(theirs.get("peer_leaf_sha256", "")),
        target_presented=str(theirs.get("own_leaf_sha256", "")),
        target_seen=str(ours.get("peer_leaf_sha256", "")),
    )


def _doors(mesh: DemoMesh, sandbox_id: str) -> list[_Door]:
    """Return every door with one caller who may pass and one who may not."""
    identities = mesh.state / "identities"
    bundles = mesh.state / "bundles"
    user, router, manager = (
        (identities / name / "svid.pem", identities / name / "key.pem")
        for name in ("user", "router", "workloadmanager")
    )
    services = bundles / f"{TRUST_DOMAIN}.pem"
    sandboxes = bundles / f"{SANDBOX_TRUST_DOMAIN}.pem"
    caller = _id_in(user[0])
    return [
        _Door(
            "workloadmanager",
            f"unix:{mesh.runtime}/wm.sock",
            "workloadmanager",
            services,
            router,
            user,
            caller,
        ),
        _Door(
            "picod",
            f"unix:{mesh.sandbox_folder(sandbox_id)}/data.sock",
            sandbox_id,
            sandboxes,
            router,
            user,
            caller,
        ),
        _Door(
            "front",
            mesh.profile.address,
            "router",
            services,
            user,
            manager,
            MANAGER_ID,
        ),
    ]


async def _refused(mesh: DemoMesh, door: _Door) -> Refusal:
    rightful = await _knock(door.address, door.bundle, *door.rightful)
    wrong = await _knock(door.address, door.bundle, *door.wrong)
    log = await mesh.find(door.log, "peer refused", peer_id=door.wrong_id) or {}
    return Refusal(
        door=door.name,
        presented=door.wrong_id,
        reason=str(log.get("reason", "")),
        detail=str(log.get("detail", "")),
        answered=wrong.answered,
        rightful_answered=rightful.answered,
    )


async def _knock(address: str, bundle: Path, chain: Path, key: Path) -> _Knock:
    """Open TLS with this certificate, begin HTTP/2, and see what comes back.

    The handshake itself tells nothing: under TLS 1.3 it ends for us before the other
    side has judged our certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the log tells the identity; this is only a knock
    context.load_verify_locations(bundle)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    if address.startswith("unix:"):
        opening = asyncio.open_unix_connection(
            address.removeprefix("unix:"), ssl=context, server_hostname=""
        )
    else:
        host, _, port = address.rpartition(":")
        opening = asyncio.open_connection(
            host.strip("[]"), int(port), ssl=context, server_hostname=""
        )
    answer, leaf = b"", b""
    with suppress(OSError):  # to be cut off is one way to be refused
        async with asyncio.timeout(_ANSWER_WITHIN):
            reader, writer = await opening
            leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.write(_PREFACE)
            answer = await reader.read(64)
            writer.transport.abort()
    return _Knock(len(answer), hashlib.sha256(leaf).hexdigest())


def _id_in(chain: Path) -> str:
    """Return the SPIFFE ID that stands in a certificate.

    A URI in a SubjectAltName is [6] IA5String. Source: RFC 5280, section 4.2.1.6.
    """
    text = chain.read_text(encoding="ascii").partition("-----END CERTIFICATE-----")
    leaf = ssl.PEM_cert_to_DER_cert(f"{text[0]}{text[1]}")
    start = leaf.index(b"spiffe://")
    return leaf[start : start + leaf[start - 1]].decode("ascii")
