"""The one door of the WorkloadManager, and who may come in: the Router."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from auth import Policy
from serving import HEALTH_METHODS, denied
from tlsloader import Acceptor, Allowlist, UnixAcceptor
from tlsloader.grpc import Gate

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    import grpc

    from tlsloader import KeptSource, SpiffeID
    from workloadmanager._settings import Settings

__all__ = ["Entrance", "entrance", "only"]

_METHODS = "/cubemesh.v1.WorkloadManager/*"


class Entrance(NamedTuple):
    """What stands before the server: its end of the connections, and the gate."""

    acceptor: Acceptor | UnixAcceptor | None
    interceptors: Sequence[grpc.aio.ServerInterceptor]
    jobs: Sequence[Coroutine[Any, Any, Any]]
    source: KeptSource | None = None

    @property
    def own_id(self) -> str:
        """Our own identity, or nothing without mTLS."""
        return "" if self.source is None else str(self.source.current().identity)


async def entrance(settings: Settings) -> Entrance:
    """Return the door that *settings* ask for.

    Raises:
        MaterialError: our own identity cannot be loaded.
    """
    if not settings.enable_mtls:
        if not settings.listen.startswith("unix:"):
            return Entrance(None, (), ())
        unix = UnixAcceptor(name="workloadmanager")
        return Entrance(unix, (Gate(_same_user(unix), refused=denied),), ())
    assert settings.router_id is not None  # noqa: S101  # `faults` made sure
    source = await settings.identity()
    acceptor = Acceptor(
        source,
        allow=Allowlist.parse(str(settings.router_id)),
        minimum_tls=settings.tls_min_version,
        name="workloadmanager",
    )
    gate = Gate(only(settings.router_id, acceptor), door=acceptor, refused=denied)
    return Entrance(acceptor, (gate,), (source.follow(),), source)


def only(router_id: SpiffeID, acceptor: Acceptor) -> Any:
    """Return the decision that lets *router_id* call, and nobody else."""
    allow = Allowlist.parse(str(router_id))
    policy = Policy({_METHODS: allow, HEALTH_METHODS: allow})

    def decide(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> SpiffeID:
        peer = acceptor.peer(context.peer())
        return policy.require(method, None if peer is None else peer.id)

    return decide


def _same_user(acceptor: UnixAcceptor) -> Any:
    def decide(_method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        acceptor.peer(context.peer())  # raises unless it came through the door

    return decide
