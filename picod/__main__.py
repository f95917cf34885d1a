"""PicoD's composition root: the only module that knows every part."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cubemesh.v1 import picod_pb2
from picod._callers import by_socket
from picod._control import (
    Isolation,
    SandboxControlServicer,
    binding_from_wire,
)
from picod._errors import InvalidRequestError, IsolationError
from picod._front import data_door
from picod._groups import make_group
from picod._handed import Hand
from picod._life import end_at_expiry, end_on_fault, end_when_orphaned
from picod._mark import leave_mark
from picod._runner import Runner, Wanted
from picod._sandbox import Binding, Sandbox
from picod._servicer import PicoDServicer
from picod._settings import Settings
from picod.inside.kernel import hide
from serving import (
    FatalError,
    Health,
    Hosted,
    announce,
    configure_logging,
    denied,
    new_server,
    parse,
    run,
    serve,
    stop_on_signals,
    tracing,
)
from tlsloader import UnixAcceptor
from tlsloader.grpc import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from picod._front import Front
    from picod._groups import Group

# What gVisor itself needs: for its kernel, and threads of the host for each process.
_SENTRY_MEMORY, _SENTRY_THREADS = 128 * 1024 * 1024, 256
_STARTING = "starting the runner"
_SPANS = 0.2  # a sandbox may end at any moment: its spans do not wait for long
_GRACE = 1.0  # after the end has begun there is nobody left to wait for but answers


def begin(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Be the PicoD that *argv* and *environ* tell of; return the exit status."""
    return live(parse(Settings, argv, environ, prog="picod"))


def live(settings: Settings) -> int:
    """Be the PicoD of *settings*, to its end; return the exit status."""
    os.umask(0o077)  # the sockets are for our own user
    hide()  # no core file and no other process is to hold our key
    configure_logging("picod", settings.log_level)
    return run(host(settings))


async def host(settings: Settings) -> None:
    """Make the runner's place and serve until the sandbox has ended."""
    leave_mark(settings.control_socket.parent, settings.sandbox_id, settings.uid)
    sandbox = Sandbox(settings.sandbox_id, starting=True)
    with ExitStack() as places:
        wanted = _wanted(settings, places)
        # The runner takes longest: everything else is made beside it.
        async with (
            tracing("picod", settings.otlp_endpoint, every=_SPANS),
            _starting(settings.sandbox_id, wanted) as starting,
        ):
            front = await data_door(settings, sandbox)
            await _serve(settings, sandbox, front, starting, _isolation(wanted))


async def _serve(
    settings: Settings,
    sandbox: Sandbox,
    front: Front,
    starting: asyncio.Task[Runner],
    isolation: Isolation,
) -> None:
    """Open the doors, and say so once there is a runner behind them."""
    control, health = UnixAcceptor(name="control"), front.health
    told = SandboxControlServicer(sandbox, isolation, front.entry, starting.result)
    PicoDServicer(sandbox, starting.result).add_to(front.data.server)
    opened: asyncio.Future[Sequence[str]] = asyncio.get_running_loop().create_future()

    async def follow_runner() -> None:
        runner, (listen, at) = await asyncio.shield(starting), await opened
        sandbox.started()
        if settings.binding_fd is not None:
            sandbox.bind(await _binding(settings.binding_fd))
        health.release(_STARTING)
        announce(listen=listen, control=at, isolation=isolation.told())
        await asyncio.gather(
            end_on_fault(sandbox, runner, unwell=health.hold),
            _close_at_end(runner, sandbox),
        )

    health.hold(_STARTING)
    jobs = (
        *front.keep_fresh,
        follow_runner(),
        end_at_expiry(sandbox),
        end_when_orphaned(
            sandbox, lambda: control.connections, timeout=settings.orphan_timeout
        ),
    )
    with stop_on_signals(sandbox.ended):
        await serve(
            front.data,
            _control_door(settings, told, control, health),
            jobs=jobs,
            stop=sandbox.ended,
            health=health,
            grace=_GRACE,
            ready=opened.set_result,
        )


def _wanted(settings: Settings, places: ExitStack) -> Wanted:
    """Make what is around a runner, to be removed with *places*, and return it."""
    limits = settings.runner_limits
    gvisor = settings.isolation == "gvisor"
    group = make_group(
        f"cubemesh-{settings.sandbox_id}",
        memory=limits.memory + gvisor * _SENTRY_MEMORY,
        processes=limits.processes * (1 + 3 * gvisor) + gvisor * _SENTRY_THREADS,
    )
    if group is not None:
        _tell_of(group, settings)
        places.callback(group.close)
    folder = None
    if settings.isolation != "bwrap":
        folder = places.enter_context(_folder(settings))
    return Wanted(
        level=settings.isolation,
        uid=settings.uid,
        limits=limits,
        python=str(settings.python),
        imports=settings.imports,
        folder=folder,
        group=group,
        network=settings.allow_network,
    )


@asynccontextmanager
async def _starting(
    sandbox_id: str, wanted: Wanted
) -> AsyncIterator[asyncio.Task[Runner]]:
    """Begin to start the runner; it ends with the block, however far it has come."""
    task = asyncio.ensure_future(_runner(sandbox_id, wanted))
    try:
        await asyncio.wait([task], timeout=0)  # its process is there before any thread
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            await task.result().aclose()


@contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    """Make the folder that the runner works in, or gVisor's bundle, and remove it.

    It is in TMPDIR, which the runner's user must be able to pass.
    """
    with TemporaryDirectory(prefix="cubemesh-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if settings.uid is not None:
            folder.chmod(0o711)  # the runner's user passes through, and reads nothing
        yield folder


def _tell_of(group: Group, settings: Settings) -> None:
    """Leave behind where our groups are, for whoever cleans up if we are killed.

    The folder of the control socket is closed to others.
    """
    paths = "".join(f"{folder}\n" for folder in group.folders)
    settings.control_socket.with_name("groups").write_text(paths, encoding="utf-8")


async def _runner(sandbox_id: str, wanted: Wanted) -> Runner:
    try:
        return await Runner.start(sandbox_id, wanted)
    except IsolationError as error:
        raise FatalError(str(error), error.hint) from error


async def _binding(descriptor: int) -> Binding:
    request = await Hand("--binding-fd", descriptor).take(picod_pb2.BindRequest)
    if request.files or request.secrets:
        raise FatalError(
            f"--binding-fd {descriptor}: a session with files or secrets",
            "give them to Bind, which says why they are not taken",
        )
    try:
        return binding_from_wire(request)
    except InvalidRequestError as error:
        raise FatalError(f"--binding-fd {descriptor}: {error}") from error


def _isolation(wanted: Wanted) -> Isolation:
    return Isolation(
        level=wanted.level,
        uid=os.getuid() if wanted.uid is None else wanted.uid,
        own_uid=wanted.uid is not None,
        limits=wanted.limits,
        limits_by=wanted.group.kind if wanted.group else "rlimits",
        network=wanted.network,
    )


def _control_door(
    settings: Settings,
    servicer: SandboxControlServicer,
    acceptor: UnixAcceptor,
    health: Health,
) -> Hosted:
    server = new_server([Gate(by_socket(acceptor), refused=denied)], health=health)
    servicer.add_to(server)
    return Hosted(server, settings.control_listen, acceptor)


async def _close_at_end(runner: Runner, sandbox: Sandbox) -> None:
    """Kill everything inside once the end has begun, so that calls end, too."""
    await sandbox.ended.wait()
    await runner.aclose()


def main() -> int:
    """Be the PicoD that flags and environment tell of; return the exit status."""
    return begin(sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(main())
