"""The WorkloadManager as a process: how it starts, refuses to, and ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

from cubemesh.v1 import workloadmanager_pb2 as pb
from cubemesh.v1 import workloadmanager_pb2_grpc
from tests.authority.test_cafiles import written
from tests.forge import Forge
from tests.processes import logging_into
from tests.system.mesh import eventually
from tests.workloadmanager.local import ROUTER, WORKLOADMANAGER, Ground
from tests.workloadmanager.test_servicer import OWNER
from tlsloader import Dialer, FixedSource, SpiffeID
from tlsloader.grpc import channel
from workloadmanager._process import Mark

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

pytestmark = pytest.mark.slow


class Service:
    """Starts WorkloadManagers on one ground."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.state = ground.folder / "state"
        self.runtime = ground.plan.runtime
        self.bundle = self.state / "bundles" / "sandbox.cluster.local.pem"
        self.log = ground.folder / "wm.log"
        self.metrics = ""
        paths = ground.services.write(ground.folder / "own", WORKLOADMANAGER)
        self.flags = [
            *("--listen", f"unix:{self.runtime}/wm.sock"),
            *("--state", str(self.state), "--runtime", str(self.runtime)),
            *("--mtls-cert-file", str(paths.chain)),
            *("--mtls-key-file", str(paths.key)),
            *("--mtls-ca-file", str(paths.bundle)),
            *("--router-id", ROUTER, "--warm-max-ready", "0"),
        ]

    def argv(self, *flags: str) -> list[str]:
        return [sys.executable, "-I", "-m", "workloadmanager", *self.flags, *flags]

    @contextmanager
    def running(self, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        with (
            self.log.open("ab") as log,
            subprocess.Popen(
                self.argv(*flags), stdout=subprocess.PIPE, stderr=log
            ) as one,
        ):
            try:
                assert one.stdout is not None
                ready = one.stdout.readline()
                assert ready, self.log.read_text()
                told = json.loads(ready)
                assert told["ready"]
                self.metrics = f"http://{told['metrics']}/metrics"
                yield one
            finally:
                one.kill()

    def refused(self, *flags: str) -> tuple[int, str]:
        """Return the status and the words of one that does not start."""
        done = subprocess.run(
            self.argv(*flags), capture_output=True, timeout=30, check=False
        )
        return done.returncode, done.stderr.decode()

    async def call(self, method: str, request: Any) -> Any:
        dialer = Dialer(
            FixedSource(self.ground.services.material(ROUTER)),
            expected=SpiffeID.parse(WORKLOADMANAGER),
            address=f"unix:{self.runtime}/wm.sock",
        )
        opened = channel(await dialer.start())
        try:
            stub = workloadmanager_pb2_grpc.WorkloadManagerStub(opened)
            return await getattr(stub, method)(request, timeout=30)
        finally:
            await opened.close()
            await dialer.aclose()

    def create(self) -> pb.SandboxSession:
        request = pb.CreateSessionRequest(
            owner=OWNER, namespace="default", template="python"
        )
        self.ground.sandbox_roots = self.bundle.read_bytes()
        created = asyncio.run(self.call("CreateSession", request))
        assert isinstance(created, pb.CreateSessionResponse)
        return created.session

    def picods(self) -> list[psutil.Process]:
        return logging_into(self.ground.folder / "state" / "logs")


@pytest.fixture
def service() -> Iterator[Service]:
    ground = Ground()
    service = Service(ground)
    try:
        yield service
    finally:
        for picod in service.picods():
            picod.kill()
        ground.remove()


def test_prometheus_hears_of_the_door(service: Service) -> None:
    """A Router that has come in is a connection at it."""
    wish = pb.ListTemplatesRequest()

    async def both() -> str:
        await service.call("ListTemplates", wish)
        with urlopen(service.metrics, timeout=10) as answer:  # noqa: ASYNC210, S310
            text: str = answer.read().decode()
            return text

    with service.running():
        assert "cubemesh_door_connections{door=" in asyncio.run(both())


def test_sandboxes_outlive_a_killed_manager(service: Service) -> None:
    """Kill -9: the next start finds the session, and it can be used and ended."""
    with service.running() as one:
        made = service.create()
        one.kill()
        one.wait()
    (picod,) = service.picods()
    with service.running() as two:
        get = pb.GetSessionRequest(session_id=made.session_id)
        found = asyncio.run(service.call("GetSession", get)).session
        assert found.sandbox_id == made.sandbox_id
        assert found.expires_at == made.expires_at
        assert asyncio.run(service.ground.run(found, "echo", "hi")) == ("hi\n", 0)
        assert service.picods() == [picod]
        delete = pb.DeleteSessionRequest(session_id=made.session_id)
        asyncio.run(service.call("DeleteSession", delete))
        assert service.picods() == []
        two.terminate()
        assert two.wait(10) == 0


def test_sandboxes_of_nobody_do_not_outlive_a_killed_manager(service: Service) -> None:
    """What waited for a session is ended by the next start, which makes its own."""
    warm = ("--warm-min-ready", "2", "--warm-max-ready", "2")
    with service.running(*warm) as one:
        made = service.create()
        eventually(lambda: len(service.picods()) == 3)
        one.kill()
        one.wait()
    (kept,) = (
        each for each in service.picods() if each.name()[6:] == made.sandbox_id[4:13]
    )
    waiting = {*service.picods()} - {kept}
    with service.running(*warm) as two:
        assert not any(Mark.of(each.pid) for each in waiting)
        eventually(lambda: len(service.picods()) == 3)
        assert Mark.of(kept.pid)
        two.send_signal(signal.SIGINT)
        assert two.wait(10) == 0
    assert service.picods() == []
    assert list(service.runtime.iterdir()) == []


def test_sigterm_leaves_sandboxes_and_sigint_ends_them(service: Service) -> None:
    """A restart keeps sessions; `cubemesh up` takes all with it; both end with 0."""
    with service.running() as one:
        made = service.create()
        one.terminate()
        assert one.wait(10) == 0
    assert len(service.picods()) == 1
    with service.running() as two:
        two.send_signal(signal.SIGINT)
        assert two.wait(10) == 0
    assert service.picods() == []
    assert list(service.runtime.iterdir()) == []
    with service.running():
        listed = asyncio.run(service.call("ListSessions", pb.ListSessionsRequest()))
        assert len(listed.sessions) == 0
    assert (
        service.ground.folder / "state" / "logs" / f"{made.sandbox_id}.log"
    ).exists()


def test_two_on_one_state_folder_are_refused(service: Service) -> None:
    """The second one ends at once, with words, and the first does not notice."""
    with service.running() as one:
        service.create()
        status, words = service.refused("--listen", "127.0.0.1:0")
        assert status == 78
        assert "error: another WorkloadManager is using the state folder" in words
        assert "hint:" in words
        assert "Traceback" not in words
        assert one.poll() is None
        assert len(service.picods()) == 1


def test_the_authority_of_files_rolls_over(service: Service) -> None:
    """Published, then signing: at every moment the Router believes the sandbox."""
    folder = service.ground.folder / "authority"
    folder.mkdir()
    forge = Forge("sandbox.cluster.local")
    old, new = (forge.signer(subject=name) for name in ("old", "new"))
    files = written(folder, [old])
    flags = ("--sandbox-ca-cert-file", str(files.certificate))
    with service.running(*flags, "--sandbox-ca-key-file", str(files.key)):
        made = service.create()
        log = service.state / "logs" / f"{made.sandbox_id}.log"
        assert service.bundle.read_bytes() == old.pem
        written(folder, [new])
        deadline = time.monotonic() + 40
        while log.read_text().count("identity loaded") < 3:  # both roots, new signer
            service.ground.sandbox_roots = service.bundle.read_bytes()
            assert asyncio.run(service.ground.run(made, "echo", "hi")) == ("hi\n", 0)
            assert time.monotonic() < deadline, service.log.read_text()
        assert {old.pem, new.pem} == pems(service.bundle.read_bytes())
        service.ground.sandbox_roots = new.pem
        assert asyncio.run(service.ground.run(made, "echo", "hi")) == ("hi\n", 0)


def pems(bundle: bytes) -> set[bytes]:
    end = b"-----END CERTIFICATE-----\n"
    return {part + end for part in bundle.split(end) if part}


def test_what_cannot_be_used_is_told_in_words(service: Service) -> None:
    """State, runtime, templates, identity and address: `error:`, `hint:`, 78 or 69."""
    templates = service.ground.folder / "t.yaml"
    templates.write_text("templates: {A: {}, b: {isolation: x}}")
    wide = service.ground.folder / "wide"
    wide.mkdir(mode=0o700)
    wide.chmod(0o755)
    newer = service.ground.folder / "newer"
    (newer / "workloadmanager").mkdir(parents=True, mode=0o700)
    newer.chmod(0o700)
    (newer / "workloadmanager" / "version").write_text("9")
    cases: list[tuple[tuple[str, ...], int, str]] = [
        (("--templates", str(templates)), 78, "t.yaml:1: b.isolation"),
        (("--state", str(wide)), 78, "others may enter"),
        (("--state", str(newer)), 78, "is of version '9'"),
        (("--runtime", str(wide)), 78, "others may enter"),
        (("--runtime", "/" + "r" * 80), 78, "too long for sockets"),
        (("--sandbox-ca-cert-file", "/no", "--sandbox-ca-key-file", "/no"), 78, "/no"),
        (("--listen", "unix:/no/such/folder/s"), 69, "cannot listen on"),
    ]
    for flags, expected, text in cases:
        status, words = service.refused(*flags)
        assert (status, "Traceback" in words) == (expected, False), words
        assert text in words, words
        assert "error: " in words
        assert "hint: " in words


def test_private_things_are_private(service: Service) -> None:
    """The sandboxes' CA, the store and the logs; only the bundle is for others."""
    with service.running():
        service.create()
        private = service.state / "workloadmanager"
        rights = {
            path.relative_to(private).as_posix(): path.stat().st_mode & 0o777
            for path in private.rglob("*")
        }
        assert all(
            not mode & 0o077 for name, mode in rights.items() if "pem" not in name
        )
        assert {"ca", "ca/ca.key", "sessions.db", "lock", "version"} <= set(rights)
        assert b"BEGIN CERTIFICATE" in service.bundle.read_bytes()
        logs = list((service.state / "logs").iterdir())
        assert [each.stat().st_mode & 0o777 for each in logs] == [0o600]
