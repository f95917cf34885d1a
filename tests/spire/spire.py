"""The real SPIRE on loopback: one server and one agent of cluster.local."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["BINARIES", "Spire", "as_group", "need", "running_spire"]

BINARIES: Final = Path.home() / ".cache/cubemesh/bin"
_HOST: Final = "spiffe://cluster.local/host"
_START_LIMIT: Final = 60.0
_SERVER: Final = """
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/server.sock"
  trust_domain = "cluster.local"
  data_dir = "{folder}/server"
  log_level = "INFO"
  ca_ttl = "24h"
  default_x509_svid_ttl = "20s"
  agent_ttl = "1h"
  ratelimit {{ attestation = false signing = false }}
  experimental {{ cache_reload_interval = "500ms" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{
    database_type = "sqlite3" connection_string = "{folder}/server/db.sqlite3"
  }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/server/keys.json" }} }}
}}
"""
_AGENT: Final = """
agent {{
  data_dir = "{folder}/agent"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{folder}/pub/agent.sock"
  trust_bundle_path = "{folder}/bundle.pem"
  trust_domain = "cluster.local"
  log_level = "INFO"
  experimental {{ sync_interval = "500ms" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = f"unix://{folder}/pub/agent.sock"
        self._agent: subprocess.Popen[bytes] | None = None

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
            *("entry", "create", "-parentID", _HOST, "-spiffeID", identity),
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

    async def authority(self, action: str, number: str = "") -> str:
        """Do *action* with a CA and return the number of that CA."""
        which = ("-authorityID", number) if number else ()
        answer = await self.ask("localauthority", "x509", action, *which)
        found: str = next(iter(answer.values()))["authority_id"]
        return found

    def start_agent(self, *token: str) -> None:
        """Start the agent and return once it is healthy."""
        config = str(self.folder / "agent.conf")
        self._agent = _spawn(
            self.folder, "spire-agent", "run", "-config", config, *token
        )
        socket_path = self.endpoint.removeprefix("unix://")
        _until_healthy(self._agent, "spire-agent", socket_path)

    def kill_agent(self) -> None:
        """End the agent without a farewell."""
        assert self._agent is not None
        self._agent.kill()
        self._agent.wait()


@contextmanager
def running_spire(folder: Path) -> Iterator[Spire]:
    """Run a server and an agent with all they have in *folder*."""
    for name in ("server", "agent", "pub"):
        (folder / name).mkdir(parents=True)
    told = {"folder": folder, "port": _free_port()}
    (folder / "server.conf").write_text(_SERVER.format(**told))
    (folder / "agent.conf").write_text(_AGENT.format(**told))
    spire = Spire(folder)
    config = str(folder / "server.conf")
    server = _spawn(folder, "spire-server", "run", "-config", config)
    try:
        _until_healthy(server, "spire-server", f"{folder}/server.sock")
        (folder / "bundle.pem").write_text(spire.run("bundle", "show"))
        answer = spire.run("token", "generate", "-spiffeID", _HOST)
        try:
            spire.start_agent("-joinToken", answer.split()[1])
            yield spire
        finally:
            spire.kill_agent()
    finally:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _spawn(folder: Path, program: str, *argv: str) -> subprocess.Popen[bytes]:
    with (folder / f"{program}.log").open("ab") as log:
        return subprocess.Popen(
            [str(BINARIES / program), *argv], stdout=log, stderr=log
        )


def _until_healthy(
    process: subprocess.Popen[bytes], program: str, socket_path: str
) -> None:
    argv = [str(BINARIES / program), "healthcheck", "-socketPath", socket_path]
    deadline = time.monotonic() + _START_LIMIT
    while subprocess.run(argv, capture_output=True, check=False).returncode:
        assert process.poll() is None, f"{program} ended: see its log"
        assert time.monotonic() < deadline, f"{program} is not healthy"
