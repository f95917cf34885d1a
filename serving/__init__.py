"""How a gRPC service is hosted: told, started, watched over, drained, stopped.

The whole of a service's ``__main__``::

    async def main(settings: Settings) -> None:
        stop, health, metrics = asyncio.Event(), Health("cubemesh.v1.Router"), Metrics()
        source = await settings.identity()  # of `IdentityFlags`
        metrics.registry.register(IdentityFigures(source, health))
        acceptor = Acceptor(source, allow=settings.clients)
        server = new_server(
            [metrics.calls, Gate(decide, door=acceptor, refused=denied)],
            health=health,
        )
        add_RouterServicer_to_server(servicer, server)
        with (
            stop_on_signals(stop),
            start_metrics(settings.metrics_listen, metrics) as figures,
        ):
            await serve(
                Hosted(server, settings.listen, acceptor),  # acceptor=None: plain
                jobs=[source.follow(), follow_identity(health, source)],
                stop=stop,
                health=health,
                ready=lambda at: announce(listen=at[0], metrics=figures),
            )

    if __name__ == "__main__":
        settings = parse(Settings, sys.argv[1:], os.environ, prog="router")
        configure_logging("router", settings.log_level)
        sys.exit(run(main(settings)))

`serve` binds each server (to its acceptor's ``backend``) and starts both. Settings
are a dataclass of `flag` fields (see `serving._settings`); handlers turn exceptions
into statuses by ``async with aborting(context, TABLE)``. What ends a service at
start is a `FatalError` (text, hint, status). Logs: stdlib ``logging`` with
``extra={...}``; ids of the call by ``with bound(request_id=…)``.
"""

from serving._door_figures import DoorFigures
from serving._errors import (
    DENIED,
    DOMAIN,
    INTERNAL,
    UNAUTHENTICATED,
    Refusal,
    Table,
    aborting,
    denied,
    refuse,
)
from serving._faults import (
    EX_CONFIG,
    EX_SOFTWARE,
    EX_UNAVAILABLE,
    FatalError,
    Fault,
    ListenError,
    SettingsError,
    print_faults,
)
from serving._flags import (
    ADDRESS,
    COUNT,
    DURATION,
    FILE,
    FOLDER,
    ID_RANGE,
    LISTEN,
    LOG_LEVEL,
    MATCHER,
    NUMBER,
    OTLP,
    PAIR,
    PATH,
    SIZE,
    SPIFFE_ID,
    TRUST_BUNDLE,
    TRUST_DOMAIN,
    WORKLOAD_API,
    FlagType,
)
from serving._health import HEALTH_METHODS, Health
from serving._identity import IdentityFlags
from serving._identity_figures import IdentityFigures
from serving._logs import bound, configure_logging
from serving._metrics import Calls, Metrics
from serving._readiness import follow_identity
from serving._run import announce, run
from serving._scrape import start_metrics
from serving._serve import Door, Hosted, new_server, serve, stop_on_signals
from serving._settings import flag, parse, read, retold
from serving._tracing import (
    begun,
    carried,
    load_tracing,
    otlp_flag,
    span,
    tracing,
)
from serving._workers import run_workers

__all__ = [
    "ADDRESS",
    "COUNT",
    "DENIED",
    "DOMAIN",
    "DURATION",
    "EX_CONFIG",
    "EX_SOFTWARE",
    "EX_UNAVAILABLE",
    "FILE",
    "FOLDER",
    "HEALTH_METHODS",
    "ID_RANGE",
    "INTERNAL",
    "LISTEN",
    "LOG_LEVEL",
    "MATCHER",
    "NUMBER",
    "OTLP",
    "PAIR",
    "PATH",
    "SIZE",
    "SPIFFE_ID",
    "TRUST_BUNDLE",
    "TRUST_DOMAIN",
    "UNAUTHENTICATED",
    "WORKLOAD_API",
    "Calls",
    "Door",
    "DoorFigures",
    "FatalError",
    "Fault",
    "FlagType",
    "Health",
    "Hosted",
    "IdentityFigures",
    "IdentityFlags",
    "ListenError",
    "Metrics",
    "Refusal",
    "SettingsError",
    "Table",
    "aborting",
    "announce",
    "begun",
    "bound",
    "carried",
    "configure_logging",
    "denied",
    "flag",
    "follow_identity",
    "load_tracing",
    "new_server",
    "otlp_flag",
    "parse",
    "print_faults",
    "read",
    "refuse",
    "retold",
    "run",
    "run_workers",
    "serve",
    "span",
    "start_metrics",
    "stop_on_signals",
    "tracing",
]
