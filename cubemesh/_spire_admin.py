"""What an administrator does at a SPIRE server, by its own command."""

from __future__ import annotations

import asyncio
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cubemesh._service import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_PATIENCE = 20.0  # seconds that a command may take
_ENOUGH = 60.0  # seconds of life in which an agent renews itself for sure


@dataclass(frozen=True, slots=True)
class Entry:
    """Who gets an identity: the process of this user that runs by *program*."""

    name: str
    path: str
    program: Path
    dns_names: tuple[str, ...] = ()


class Admin:
    """The administrator of the server behind *socket*.

    Every method raises `ServiceError` when the server does not do it.
    """

    def __init__(self, program: Path, socket: Path, trust_domain: str) -> None:
        self._program, self._socket = program, socket
        self._trust_domain = trust_domain
        self.parent = f"spiffe://{trust_domain}/host"

    async def bundle(self) -> str:
        """Return the roots, PEM."""
        return await self._ask("bundle", "show")

    async def knows_agent(self) -> bool:
        """Say whether an agent is known that may still come back by itself."""
        found = json.loads(await self._ask("agent", "list", *_AS_JSON))
        now = datetime.now(UTC).timestamp()  # noqa: TID251 - what SPIRE compares with
        ends = [int(each["x509svid_expires_at"]) for each in found["agents"]]
        return any(end > now + _ENOUGH for end in ends)

    async def token(self) -> str:
        """Return the token of a new agent, the one that entries are made below."""
        of_parent = ("entry", "show", "-spiffeID", self.parent, *_AS_JSON)
        old = json.loads(await self._ask(*of_parent))["entries"]
        await self._delete(each["id"] for each in old)
        answer = await self._ask("token", "generate", "-spiffeID", self.parent)
        return answer.split()[1]

    async def enter(self, entries: Sequence[Entry], seconds: float) -> None:
        """Make *entries* the ones of their names, for identities of *seconds*."""
        await self._delete(each.name for each in entries)
        made = [self._entry(each, math.ceil(seconds)) for each in entries]
        await self._ask("entry", "create", "-data", "-", said={"entries": made})

    def command(self, *command: str) -> list[str]:
        """Return the argv of a command for this server."""
        return [str(self._program), *command, "-socketPath", str(self._socket)]

    def _entry(self, entry: Entry, seconds: int) -> dict[str, Any]:
        return {
            "entry_id": entry.name,
            "parent_id": self.parent,
            "spiffe_id": f"spiffe://{self._trust_domain}{entry.path}",
            "selectors": [
                {"type": "unix", "value": f"uid:{os.geteuid()}"},
                {"type": "unix", "value": f"path:{entry.program}"},
            ],
            "x509_svid_ttl": seconds,
            "dns_names": list(entry.dns_names),
        }

    async def _delete(self, numbers: Iterable[str]) -> None:
        """Delete entries; as JSON it does not mind those that are not there."""
        said = {"ids": list(numbers)}
        await self._ask("entry", "delete", "-file", "-", *_AS_JSON, said=said)

    async def _ask(self, *command: str, said: Any = None) -> str:
        """Run a command and return what it prints; *said* is its input, as JSON."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={},
        )
        given = b"" if said is None else json.dumps(said).encode()
        try:
            async with asyncio.timeout(_PATIENCE):
                out, err = await process.communicate(given)
        except TimeoutError:
            message = f"spire-server {command[0]} {command[1]} takes too long"
            raise ServiceError(message) from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        if process.returncode:
            words = (err or out).decode(errors="replace").strip().rpartition("\n")[2]
            message = f"spire-server {command[0]} {command[1]} failed: {words}"
            raise ServiceError(message)
        return out.decode(errors="replace")


_AS_JSON = ("-output", "json")
