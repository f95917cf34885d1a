"""The real SPIRE on loopback: a server and an agent of one trust domain.

They run by the same configuration as those of `cubemesh up --spire`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["BINARIES", "DELEGATE", "Spire", "as_group", "need", "running_spire"]

BINARIES: Final = Path.home() / ".cache/cubemesh/bin"
DELEGATE: Final = "/delegate"
"""The path of who may ask the agent of the sandboxes for identities of others."""
_CONFIGURATION: Final = Path(__file__).parents[2] / "deploy/spire/local"
_START_LIMIT: Final = 60.0


def need(*programs: str) -> None:
    """Skip the test where one of *programs* is missing; in CI that is a failure."""
    absent = [name for name in programs if not (BINARIES / name).is_file()]
    if not absent:
        return
    reason = f"{', '.join(absent)} missing: run `make peers`"
    if os.environ.get("CI") == "true":  # noqa: TID251 -- what runs decides
        pytest.fail(reason)
    pytest.skip(reason)


def as_group(group: int, *argv: str) -> list[str]:
    """Return *argv* as a process of *group*: what the agent tells processes by."""
    return ["setpriv", "--regid", str(group), "--clear-groups", "--", *argv]


class Spire:
    """A server and an agent, and what an administrator does with them."""

    def __init__(self, folder: Path, domain: str) -> None:
        self.folder, self.domain = folder, domain
        self.parent = f"spiffe://{domain}/host"
        self.endpoint = f"unix://{folder}/pub/agent.sock"
        self.admin = f"unix://{folder}/adm/admin.sock"
        self.server = f"unix://{folder}/server.sock"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environ = {
            "TRUST_DOMAIN": domain,
            "SERVER_PORT": str(_free_port()),
            "SERVER_SOCKET": f"{folder}/server.sock",
            "AGENT_SOCKET": f"{folder}/pub/agent.sock",
            "ADMIN_SOCKET": f"{folder}/adm/admin.sock",
            "DELEGATE_ID": f"spiffe://{domain}{DELEGATE}",
            "BUNDLE_FILE": f"{folder}/bundle.pem",
        }

    def run(self, *command: str) -> str:
        """Run ``spire-server`` *command* and return what it prints."""
        flags = ("-socketPath", f"{self.folder}/server.sock")
        done = subprocess.run(
            [str(BINARIES / "spire-server"), *command, *flags],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout

    async def ask(self, *command: str) -> Any:
        """Run ``spire-server`` *command* and return its answer, read as JSON."""
        text = await asyncio.to_thread(self.run, *command, "-output", "json")
        return json.loads(text)

    async def create(self, identity: str, *more: str, group: int, ttl: int) -> str:
        """Give *identity* to processes of *group*; return the number of the entry."""
        answer = await self.ask(
            *("entry", "create", "-parentID", self.parent, "-spiffeID", identity),
            *("-selector", f"unix:gid:{group}", "-x509SVIDTTL", str(ttl), *more),
        )
        number: str = answer["results"][0]["entry"]["id"]
        return number

    async def delete(self, number: str) -> None:
        await self.ask("entry", "delete", "-entryID", number)

    @asynccontextmanager
    async def entry(
        self, identity: str, *more: str, group: int = 0, ttl: int = 20
    ) -> AsyncIterator[str]:
        """Give *identity* to processes of *group* while the block runs."""
        number = await self.create(identity, *more, group=group, ttl=ttl)
        try:
            yield number
        finally:
            await self.delete(number)

    async def identities(self) -> set[str]:
        """Return for whom there are entries at the server."""
        answer = await self.ask("entry", "show")
        ids = [each["spiffe_id"] for each in answer["entries"]]
        return {f"spiffe://{each['trust_domain']}{each['path']}" for each in ids}

    async def authority(self, action: str, number: str = "") -> str:
        """Do *action* with a CA and return the number of that CA."""
        which = ("-authorityID", number) if number else ()
        answer = await self.ask("localauthority", "x509", action, *which)
        found: str = next(iter(answer.values()))["authority_id"]
        return found

    def start_server(self) -> None:
        """Start the server and return once it is healthy."""
        self._start("spire-server", "server.conf", "server", self.server)

    def start_agent(self, *token: str) -> None:
        """Start the agent and return once it is healthy."""
        configuration = "sandboxes-agent.conf"
        self._start("spire-agent", configuration, "agent", self.endpoint, *token)

    def kill_server(self) -> None:
        """End the server without a farewell."""
        self._kill("spire-server")

    def kill_agent(self) -> None:
        """End the agent without a farewell."""
        self._kill("spire-agent")

    @contextmanager
    def frozen(self, program: str) -> Iterator[None]:
        """Stop *program* where it stands while the block runs; its socket stays."""
        process = self._processes[program]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def _start(self, program: str, name: str, data: str, at: str, *more: str) -> None:
        configuration = str(_CONFIGURATION / name)
        argv = (program, "run", "-expandEnv", "-config", configuration, *more)
        environ = {**self._environ, "DATA_DIR": str(self.folder / data)}
        self._processes[program] = _spawn(self.folder, environ, *argv)
        _until_healthy(self._processes[program], program, at.removeprefix("unix://"))

    def _kill(self, program: str) -> None:
        process = self._processes.pop(program)
        process.kill()
        process.wait()


@contextmanager
def running_spire(folder: Path, domain: str = "cluster.local") -> Iterator[Spire]:
    """Run a server and an agent of *domain* with all they have in *folder*."""
    for name in ("server", "agent", "pub", "adm"):
        (folder / name).mkdir(parents=True)
    spire = Spire(folder, domain)
    spire.start_server()
    try:
        (folder / "bundle.pem").write_text(spire.run("bundle", "show"))
        answer = spire.run("token", "generate", "-spiffeID", spire.parent)
        try:
            spire.start_agent("-joinToken", answer.split()[1])
            yield spire
        finally:
            spire.kill_agent()
    finally:
        spire.kill_server()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _spawn(
    folder: Path, environ: dict[str, str], program: str, *argv: str
) -> subprocess.Popen[bytes]:
    with (folder / f"{program}.log").open("ab") as log:
        return subprocess.Popen(
            [str(BINARIES / program), *argv], stdout=log, stderr=log, env=environ
        )


def _until_healthy(
    process: subprocess.Popen[bytes], program: str, socket_path: str
) -> None:
    argv = [str(BINARIES / program), "healthcheck", "-socketPath", socket_path]
    deadline = time.monotonic() + _START_LIMIT
    while subprocess.run(argv, capture_output=True, check=False).returncode:
        assert process.poll() is None, f"{program} ended: see its log"
        assert time.monotonic() < deadline, f"{program} is not healthy"
