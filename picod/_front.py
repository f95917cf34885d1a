"""The door that the Router comes to, and how it proves itself there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from auth import KeysError, PublicKeys, Verifier
from picod._callers import by_certificate, by_token
from picod._control import Entry
from picod._identity import begin_handed
from serving import FatalError, Health, Hosted, denied, follow_identity, new_server
from tlsloader import Acceptor, Allowlist
from tlsloader.grpc import Gate

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from picod._sandbox import Sandbox
    from picod._settings import Settings
    from tlsloader import SpiffeID

__all__ = ["Front", "data_door"]


class Front(NamedTuple):
    """The Router's door, what it shows, and what keeps fresh what it goes by."""

    data: Hosted
    health: Health
    entry: Entry
    keep_fresh: Sequence[Coroutine[Any, Any, Any]]


async def data_door(settings: Settings, sandbox: Sandbox) -> Front:
    """Make the door at which the Router proves itself, as *settings* have it.

    Raises:
        FatalError: there are no keys to know it by, or the identity is another's.
        MaterialError: what we show there is not usable.
    """
    health = Health("cubemesh.v1.PicoD", "cubemesh.v1.SandboxControl")
    if settings.picod_auth_mode == "jwt":
        keys = await _public_keys(settings.keys)
        gate = Gate(
            by_token(Verifier(keys, sandbox.sandbox_id), sandbox), refused=denied
        )
        hosted = Hosted(new_server([gate], health=health), settings.listen)
        return Front(hosted, health, Entry(), [keys.follow()])
    handed = settings.identity_fd
    source = await settings.identity() if handed is None else await begin_handed(handed)
    _require_own_identity(source.current().identity, sandbox)
    acceptor = Acceptor(
        source,
        allow=Allowlist.parse(str(settings.router)),
        minimum_tls=settings.tls_min_version,
    )
    decide = by_certificate(acceptor, settings.router)
    gate = Gate(decide, door=acceptor, refused=denied)
    hosted = Hosted(new_server([gate], health=health), settings.listen, acceptor)
    entry = Entry(source, acceptor.refusals)
    jobs = source.follow(), follow_identity(health, source)
    return Front(hosted, health, entry, jobs)


async def _public_keys(path: Path) -> PublicKeys:
    try:
        return await PublicKeys.load(path)
    except KeysError as error:
        raise FatalError(str(error), "is the Router publishing its keys?") from error


def _require_own_identity(own: SpiffeID, sandbox: Sandbox) -> None:
    """Refuse to show one sandbox's identity at another one's door."""
    if not own.path.endswith(f"/sandbox/{sandbox.sandbox_id}"):
        raise FatalError(
            f"the identity {own} is not that of {sandbox.sandbox_id}",
            "identity and --sandbox-id belong to different sandboxes",
        )
