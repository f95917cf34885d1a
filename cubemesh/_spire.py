"""SPIRE on this machine: a server and an agent for each of the two trust domains.

Who makes the sandboxes' entries, the WorkloadManager, must not be able to make the
Router's identity. So it is told of the sandboxes' server and agent only.
"""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cubemesh._errors import ConfigurationError
from cubemesh._service import Service, ServiceError
from cubemesh._spire_admin import Admin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cubemesh._spire_admin import Entry

_CONFIGURATION = Path(__file__).parent / "spire"


@dataclass(frozen=True, slots=True)
class Programs:
    """SPIRE's two programs."""

    server: Path
    agent: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        """Find them on PATH, or where `make peers` puts them.

        Raises:
            ConfigurationError: they are not there.

        """
        home = Path.home() / ".cache" / "cubemesh"
        cache = Path(environ.get("CUBEMESH_CACHE") or home) / "bin"
        path = os.pathsep.join((environ.get("PATH", os.defpath), str(cache)))
        names = ("spire-server", "spire-agent")
        found = [shutil.which(name, path=path) for name in names]
        missing = [n for n, f in zip(names, found, strict=True) if f is None]
        if missing:
            message = f"there is no {' and no '.join(missing)} on PATH or in {cache}"
            hint = "install SPIRE 1.15 or newer; in CubeMesh's own tree: make peers"
            raise ConfigurationError(message, hint=hint)
        return cls(*(Path(str(each)) for each in found))


class Node:
    """The server and the agent of one trust domain.

    Args:
        programs: what they run by.
        trust_domain: theirs.
        data: the folder of what outlives them: keys, CA, entries.
        sockets: the folder of their sockets; its path is short.
        delegate: the path of who may ask the agent for others' identities.

    """

    def __init__(
        self,
        programs: Programs,
        trust_domain: str,
        *,
        data: Path,
        sockets: Path,
        delegate: str = "",
    ) -> None:
        self._programs, self._data = programs, data
        self._trust_domain, self._delegate = trust_domain, delegate
        self.server_socket = sockets / "server" / "server.sock"
        self.agent_socket = sockets / "agent" / "agent.sock"
        self.admin_socket = sockets / "admin" / "admin.sock"
        for each in (self.server_socket, self.agent_socket, self.admin_socket):
            each.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("server", "agent"):
            (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._admin = Admin(programs.server, self.server_socket, trust_domain)
        self._port = _free_port()

    @property
    def parent(self) -> str:
        """The SPIFFE ID below which entries are made."""
        return self._admin.parent

    def server(self, name: str, log: Path, environ: Mapping[str, str]) -> Service:
        """Return the server as a service called *name*."""
        return Service(
            name,
            lambda: self._run(self._programs.server, "server.conf"),
            log,
            {**environ, **self._environ("server")},
            probe=self._admin.command("healthcheck"),
        )

    def agent(self, name: str, log: Path, environ: Mapping[str, str]) -> Service:
        """Return the agent as a service called *name*; begin it by `start_agent`."""
        file = "sandboxes-agent.conf" if self._delegate else "agent.conf"
        program = self._programs.agent
        return Service(
            name,
            lambda: [*self._run(program, file), *self._token()],
            log,
            {**environ, **self._environ("agent")},
            probe=[str(program), "healthcheck", "-socketPath", str(self.agent_socket)],
        )

    async def start_agent(
        self, agent: Service, entries: Sequence[Entry], seconds: float
    ) -> dict[str, Any]:
        """Give *entries* identities of so many *seconds*, then start *agent*.

        One that ran here before comes back by its keys. It is begun anew, by a token,
        if the server does not know it, or not any more.

        Raises:
            ServiceError: it does not start.

        """
        token = self._data / "token"
        token.unlink(missing_ok=True)  # of one that was killed
        await self._admin.enter(entries, seconds)
        bundle = await self._admin.bundle()
        (self._data / "bundle.pem").write_text(bundle, encoding="ascii")
        if (self._data / "agent" / "keys.json").exists():
            if await self._admin.knows_agent():
                with suppress(ServiceError):
                    return await agent.start()
            shutil.rmtree(self._data / "agent")
            (self._data / "agent").mkdir(mode=0o700)
        token.touch(mode=0o600)
        try:
            token.write_text(await self._admin.token(), encoding="ascii")
            return await agent.start()
        finally:
            token.unlink()

    def _run(self, program: Path, file: str) -> list[str]:
        return [
            str(program),
            "run",
            "-expandEnv",
            "-config",
            str(_CONFIGURATION / file),
        ]

    def _token(self) -> list[str]:
        token = self._data / "token"
        return ["-joinTokenFile", str(token)] if token.exists() else []

    def _environ(self, part: str) -> dict[str, str]:
        return {
            "TRUST_DOMAIN": self._trust_domain,
            "SERVER_PORT": str(self._port),
            "SERVER_SOCKET": str(self.server_socket),
            "AGENT_SOCKET": str(self.agent_socket),
            "ADMIN_SOCKET": str(self.admin_socket),
            "BUNDLE_FILE": str(self._data / "bundle.pem"),
            "DELEGATE_ID": f"spiffe://{self._trust_domain}{self._delegate}",
            "DATA_DIR": str(self._data / part),
        }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
