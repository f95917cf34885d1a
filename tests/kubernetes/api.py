"""A real Kubernetes API on loopback: etcd and kube-apiserver; nothing runs pods."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.kubernetes.pki import Pki

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BINARIES", "Api", "need", "render", "running_api"]

_CACHE = os.environ.get("CUBEMESH_CACHE")  # noqa: TID251 - as tests/peers/build-kube.sh
BINARIES: Final = Path(_CACHE or Path.home() / ".cache/cubemesh") / "bin"
_START_LIMIT: Final = 60.0
_END_LIMIT: Final = 20.0


def need(*programs: str) -> None:
    """Skip the test where one of *programs* is missing; in CI that is a failure."""
    absent = [name for name in programs if not (BINARIES / name).is_file()]
    if not absent:
        return
    reason = f"{', '.join(absent)} missing: run `make peers`"
    if os.environ.get("CI") == "true":  # noqa: TID251 - what runs decides
        pytest.fail(reason)
    pytest.skip(reason)


def render(folder: Path) -> str:
    """Return what ``kubectl kustomize`` makes of *folder*."""
    argv = [str(BINARIES / "kubectl"), "kustomize", str(folder)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True, slots=True)
class Api:
    """The running API, spoken to by kubectl as its administrator."""

    config: Path

    def kubectl(
        self, *arguments: str, manifest: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl with *manifest* on its standard input; faults are returned."""
        argv = [str(BINARIES / "kubectl"), "--kubeconfig", str(self.config)]
        return subprocess.run(
            [*argv, *arguments],
            input=manifest,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def judge(self, manifest: str) -> subprocess.CompletedProcess[str]:
        """Have the API take *manifest* apart strictly, and keep nothing of it."""
        dry = ("--dry-run=server", "--validate=strict")
        return self.kubectl("apply", *dry, "--filename", "-", manifest=manifest)

    def apply(self, manifest: str) -> None:
        """Create what *manifest* says."""
        done = self.kubectl("apply", "--filename", "-", manifest=manifest)
        assert done.returncode == 0, done.stderr


@contextmanager
def running_api(folder: Path) -> Iterator[Api]:
    """Run etcd and kube-apiserver with own certificates in *folder*."""
    pki = Pki(folder)
    pki.certify("server", "kube-apiserver")
    pki.certify("admin", "admin", "system:masters")
    pki.key_pair("tokens")
    store, peers, secure = _free_ports(3)
    api = Api(_config(folder, secure))
    with ExitStack() as stack:
        etcd = stack.enter_context(_process(_etcd(folder, store, peers), folder))
        server = stack.enter_context(
            _process(_apiserver(folder, store, secure), folder)
        )
        _await_ready(api, (etcd, server), folder)
        yield api


def _etcd(folder: Path, port: int, peers: int) -> list[str]:
    return [
        str(BINARIES / "etcd"),
        f"--data-dir={folder}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls=https://127.0.0.1:{port}",
        f"--advertise-client-urls=https://127.0.0.1:{port}",
        f"--listen-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
        f"--initial-cluster=default=http://127.0.0.1:{peers}",
        f"--cert-file={folder}/server.crt",
        f"--key-file={folder}/server.key",
        "--client-cert-auth",
        f"--trusted-ca-file={folder}/ca.crt",
    ]


def _apiserver(folder: Path, store: int, port: int) -> list[str]:
    return [
        str(BINARIES / "kube-apiserver"),
        f"--etcd-servers=https://127.0.0.1:{store}",
        f"--etcd-cafile={folder}/ca.crt",
        f"--etcd-certfile={folder}/server.crt",
        f"--etcd-keyfile={folder}/server.key",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={folder}/server.crt",
        f"--tls-private-key-file={folder}/server.key",
        f"--client-ca-file={folder}/ca.crt",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder}/tokens.pub",
        f"--service-account-signing-key-file={folder}/tokens.key",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
    ]


def _config(folder: Path, port: int) -> Path:
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority": f"{folder}/ca.crt",
    }
    user = {
        "client-certificate": f"{folder}/admin.crt",
        "client-key": f"{folder}/admin.key",
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@contextmanager
def _process(argv: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / f"{Path(argv[0]).name}.log"
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=out) as child:
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(_END_LIMIT)
            except subprocess.TimeoutExpired:
                child.kill()


def _await_ready(
    api: Api, children: tuple[subprocess.Popen[bytes], ...], folder: Path
) -> None:
    limit = time.monotonic() + _START_LIMIT
    while api.kubectl("get", "--raw", "/readyz").returncode:
        ended = [child.args for child in children if child.poll() is not None]
        if ended or time.monotonic() > limit:
            logs = [log.read_text()[-2000:] for log in sorted(folder.glob("*.log"))]
            raise RuntimeError(f"no Kubernetes API; ended: {ended}\n" + "\n".join(logs))


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]
