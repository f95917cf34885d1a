"""PicoD's composition root: the only module that knows every part."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from auth import KeysError, PublicKeys, Verifier
from picod._callers import by_certificate, by_socket, by_token
from picod._control import Entry, Isolation, SandboxControlServicer
from picod._errors import IsolationError
from picod._groups import make_group
from picod._identity import begin_handed
from picod._life import end_at_expiry, end_on_fault, end_when_orphaned
from picod._mark import leave_mark
from picod._runner import Runner, Wanted
from picod._sandbox import Sandbox
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
    from collections.abc import Coroutine, Iterator, Mapping, Sequence

    from picod._groups import Group
    from tlsloader import SpiffeID

# What gVisor itself needs: for its kernel, and threads of the host for each process.
_SENTRY_MEMORY, _SENTRY_THREADS = 128 * 1024 * 1024, 256
_GRACE = 1.0  # after the end has begun there is nobody left to wait for but answers


def begin(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Be the PicoD that *argv* and *environ* tell of; return the exit status."""
    os.umask(0o077)  # the sockets are for our own user
    hide()  # no core file and no other process is to hold our key
    settings = parse(Settings, argv, environ, prog="picod")
    configure_logging("picod", settings.log_level)
    return run(main(settings))


async def main(settings: Settings) -> None:
    """Make the runner's place and serve until the sandbox has ended."""
    leave_mark(settings.control_socket.parent, settings.sandbox_id, settings.uid)
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
        async with aclosing(await _runner(settings, folder, group)) as runner:
            await _serve(settings, runner, group.kind if group else "rlimits")


async def _serve(settings: Settings, runner: Runner, limits_by: str) -> None:
    """Assemble the doors in front of *runner* and serve them."""
    sandbox = Sandbox(settings.sandbox_id)
    health = Health("cubemesh.v1.PicoD", "cubemesh.v1.SandboxControl")
    data, entry, keep_fresh = await _data_door(settings, sandbox, health)
    control = UnixAcceptor(name="control")
    isolation = Isolation(
        level=settings.isolation,
        uid=os.getuid() if settings.uid is None else settings.uid,
        own_uid=settings.uid is not None,
        limits=runner.limits,
        limits_by=limits_by,
        network=settings.allow_network,
    )
    told = SandboxControlServicer(sandbox, isolation, entry, runner.incident)
    PicoDServicer(sandbox, runner).add_to(data.server)
    jobs = (
        *keep_fresh,
        end_at_expiry(sandbox),
        end_on_fault(sandbox, runner, unwell=health.hold),
        end_when_orphaned(
            sandbox, lambda: control.connections, timeout=settings.orphan_timeout
        ),
        _close_at_end(runner, sandbox),
    )
    with stop_on_signals(sandbox.ended):
        await serve(
            data,
            _control_door(settings, told, control, health),
            jobs=jobs,
            stop=sandbox.ended,
            health=health,
            grace=_GRACE,
            ready=lambda at: announce(listen=at[0], control=at[1]),
        )


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


async def _data_door(
    settings: Settings, sandbox: Sandbox, health: Health
) -> tuple[Hosted, Entry, Sequence[Coroutine[Any, Any, Any]]]:
    """Return the Router's door, what it shows, and what keeps fresh what it goes by."""
    if settings.picod_auth_mode == "jwt":
        keys = await _public_keys(settings.keys)
        gate = Gate(
            by_token(Verifier(keys, sandbox.sandbox_id), sandbox), refused=denied
        )
        hosted = Hosted(new_server([gate], health=health), settings.listen)
        return hosted, Entry(), [keys.follow()]
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
    jobs = [source.follow(), follow_identity(health, source)]
    return hosted, Entry(source, acceptor.refusals), jobs


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
