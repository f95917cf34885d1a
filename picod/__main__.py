"""PicoD's composition root: the only module that knows every part."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from auth import KeysError, PublicKeys, Verifier
from cubemesh.v1 import picod_pb2
from picod._callers import by_certificate, by_socket, by_token
from picod._control import (
    Entry,
    Isolation,
    SandboxControlServicer,
    binding_from_wire,
)
from picod._errors import InvalidRequestError, IsolationError
from picod._groups import make_group
from picod._handed import Hand
from picod._identity import begin_handed
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
    follow_identity,
    new_server,
    parse,
    run,
    serve,
    stop_on_signals,
)
from tlsloader import Acceptor, Allowlist, UnixAcceptor
from tlsloader.grpc import Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence

    from picod._groups import Group
    from tlsloader import SpiffeID

# What gVisor itself needs: for its kernel, and threads of the host for each process.
_SENTRY_MEMORY, _SENTRY_THREADS = 128 * 1024 * 1024, 256
_GRACE = 1.0  # after the end has begun there is nobody left to wait for but answers


def begin(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Be the PicoD that *argv* and *environ* tell of; return the exit status."""
    return live(parse(Settings, argv, environ, prog="picod"))


def live(settings: Settings) -> int:
    """Be the PicoD of *settings*, to its end; return the exit status."""
    os.umask(0o077)  # the sockets are for our own user
    hide()  # no core file and no other process is to hold our key
    configure_logging("picod", settings.log_level)
    return run(main(settings))


async def main(settings: Settings) -> None:
    """Make the runner's place and serve until the sandbox has ended."""
    leave_mark(settings.control_socket.parent, settings.sandbox_id, settings.uid)
    sandbox = Sandbox(settings.sandbox_id)
    with ExitStack() as places:
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
        # The runner takes longest: everything else is made beside it.
        async with _starting(settings, folder, group) as starting:
            front = await _data_door(settings, sandbox)
            if settings.binding_fd is not None:
                sandbox.bind(await _binding(settings.binding_fd))
            isolation = _isolation(settings, group.kind if group else "rlimits")
            await _serve(settings, sandbox, isolation, front, starting)


async def _serve(
    settings: Settings,
    sandbox: Sandbox,
    isolation: Isolation,
    front: Front,
    starting: asyncio.Task[Runner],
) -> None:
    """Put the runner behind the doors and serve them."""
    control, health = UnixAcceptor(name="control"), front.health
    runner = await starting
    told = SandboxControlServicer(sandbox, isolation, front.entry, runner.incident)
    back = _control_door(settings, told, control, health)
    PicoDServicer(sandbox, runner).add_to(front.data.server)
    jobs = (
        *front.keep_fresh,
        end_at_expiry(sandbox),
        end_on_fault(sandbox, runner, unwell=health.hold),
        end_when_orphaned(
            sandbox, lambda: control.connections, timeout=settings.orphan_timeout
        ),
        _close_at_end(runner, sandbox),
    )
    with stop_on_signals(sandbox.ended):
        await serve(
            front.data,
            back,
            jobs=jobs,
            stop=sandbox.ended,
            health=health,
            grace=_GRACE,
            ready=lambda at: announce(
                listen=at[0], control=at[1], isolation=isolation.told()
            ),
        )


@asynccontextmanager
async def _starting(
    settings: Settings, folder: Path | None, group: Group | None
) -> AsyncIterator[asyncio.Task[Runner]]:
    """Begin to start the runner; it ends with the block, however far it has come."""
    task = asyncio.ensure_future(_runner(settings, folder, group))
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
    control = Path(settings.control_listen.removeprefix("unix:"))
    control.with_name("groups").write_text(paths, encoding="utf-8")


async def _runner(
    settings: Settings, folder: Path | None, group: Group | None
) -> Runner:
    try:
        wanted = Wanted(
            level=settings.isolation,
            uid=settings.uid,
            limits=settings.runner_limits,
            python=str(settings.python),
            imports=settings.imports,
            folder=folder,
            group=group,
            network=settings.allow_network,
        )
        return await Runner.start(settings.sandbox_id, wanted)
    except IsolationError as error:
        raise FatalError(str(error), error.hint) from error


class Front(NamedTuple):
    """The Router's door, what it shows, and what keeps fresh what it goes by."""

    data: Hosted
    health: Health
    entry: Entry
    keep_fresh: Sequence[Coroutine[Any, Any, Any]]


async def _data_door(settings: Settings, sandbox: Sandbox) -> Front:
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


async def _binding(descriptor: int) -> Binding:
    request = await Hand("--binding-fd", descriptor).take(picod_pb2.BindRequest)
    try:
        return binding_from_wire(request)
    except InvalidRequestError as error:
        raise FatalError(f"--binding-fd {descriptor}: {error}") from error


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


def _isolation(settings: Settings, limits_by: str) -> Isolation:
    return Isolation(
        level=settings.isolation,
        uid=os.getuid() if settings.uid is None else settings.uid,
        own_uid=settings.uid is not None,
        limits=settings.runner_limits,
        limits_by=limits_by,
        network=settings.allow_network,
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


if __name__ == "__main__":
    sys.exit(begin(sys.argv[1:], os.environ))
