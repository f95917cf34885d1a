"""The Router's parts, put together, but for where they listen and who calls."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

from cubemesh.v1 import picod_pb2, router_pb2_grpc
from router._admission import Admission, Load
from router._ahead import Ahead
from router._audit import Audit
from router._births import Births
from router._channels import Channels
from router._figures import Figures
from router._forward import Forwarder, Limits
from router._locator import Locator
from router._refusals import refuse
from router._registry import Registry
from router._servicer import Servicer
from router._sessions import Sessions
from router._touch import Touches
from router._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    import grpc

    from clock import Clock
    from router._ways import Way

__all__ = ["House"]

_PICOD = picod_pb2.DESCRIPTOR.services_by_name["PicoD"]


class House:
    """Everything behind the front door; *manager* is the WorkloadManager's channel.

    At most *ahead* sandboxes are dialled before they have a session. Needs its `jobs`
    run, and callers named in `tlsloader.grpc.CALLER`.
    """

    def __init__(
        self,
        manager: grpc.aio.Channel,
        way: Way,
        load: Load,
        clock: Clock,
        ahead: int = 0,
    ) -> None:
        self._clock, self.load = clock, load
        self.refusals: Counter[str] = Counter()
        self.sessions = Sessions()
        self.registry = Registry(manager, f"router-{secrets.token_hex(8)}")
        self.locator = Locator(self.sessions, self.registry, clock)
        self.ahead = Ahead(way, clock, ahead)
        self.channels = Channels(self.sessions, way, self.ahead, clock)
        self.births = Births(self.registry, self.sessions, self.locator, clock)
        self.touches = Touches(self.channels, self.registry, clock)
        self.watch = Watch(
            self.registry, self.sessions, self.locator, self.touches.query, clock
        )
        self.watch.on_waiting(self.ahead.tell)
        self.audit = Audit(self.refusals)

    def add_to(
        self, server: grpc.aio.Server, limits: Limits, *, unknown: bool = False
    ) -> None:
        """Serve Sessions and, behind all else, PicoD's methods on *server*."""
        servicer = Servicer(
            registry=self.registry,
            sessions=self.sessions,
            locator=self.locator,
            births=self.births,
            load=self.load,
            audit=self.audit,
        )
        router_pb2_grpc.add_SessionsServicer_to_server(servicer, server)
        admission = Admission(
            locator=self.locator,
            channels=self.channels,
            births=self.births,
            load=self.load,
            audit=self.audit,
            clock=self._clock,
        )
        forwarder = Forwarder(
            _PICOD,
            admit=admission.admit,
            refuse=refuse,
            limits=limits,
            unknown=unknown,
        )
        server.add_generic_rpc_handlers((forwarder,))

    def jobs(self) -> Iterable[Coroutine[Any, Any, Any]]:
        """Return what must run as long as the Router serves."""
        return (
            self.watch.follow(),
            self.watch.supervise(),
            self.touches.report(),
            self.touches.answer(),
            self.ahead.dial(),
            self.ahead.sweep(),
            self.channels.sweep(),
            self.channels.tend(),
            self.births.collect(),
            self.audit.report(self.channels, self._clock),
        )

    def figures(self) -> Figures:
        """Return what Prometheus may read."""
        return Figures(
            gauges={
                "sessions": ("Sessions known to be live.", lambda: len(self.sessions)),
                "channels": ("Channels to sandboxes.", lambda: len(self.channels)),
                "dialled_ahead": (
                    "Channels to sandboxes that wait for a session.",
                    lambda: len(self.ahead),
                ),
                "open_calls": ("Calls under way.", lambda: self.load.open),
                "manager_silence_seconds": (
                    "How long the WorkloadManager was not heard.",
                    lambda: self.locator.silence,
                ),
            },
            counts={
                "lookups": ("Questions about sessions.", lambda: self.locator.lookups),
                "found_dialled": (
                    "Sessions whose first call found its channel open.",
                    lambda: self.ahead.taken,
                ),
                "watch_restarts": ("Watches lost.", lambda: self.watch.restarts),
            },
            refusals=self.refusals,
        )
