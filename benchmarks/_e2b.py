"""A server that speaks E2B's protocol, as its SDK does: REST, and Connect with JSON."""

from __future__ import annotations

import base64
import json
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from benchmarks._servers import WrongResultError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from benchmarks._servers import Box

__all__ = ["E2B", "E2BError"]

_ENVD, _CODE = 49983, 49999  # ports inside a sandbox
_LAST: Final = 2  # flag of a frame: the end of the stream
_LIFETIME: Final = 300  # seconds
_PATIENCE: Final = aiohttp.ClientTimeout(total=120)


class E2BError(Exception):
    """The server refused, or its answer cannot be read."""


@dataclass(frozen=True, slots=True)
class E2B:
    """*api_url* makes sandboxes of *template*; *sandbox_url* reaches all of them.

    Without *sandbox_url* each is at ``https://<port>-<id>.<domain>``.
    """

    session: aiohttp.ClientSession
    api_url: str
    key: str
    template: str = "base"
    sandbox_url: str = ""
    domain: str = "e2b.app"

    @classmethod
    @asynccontextmanager
    async def opened(cls, api_url: str, key: str, **how: str) -> AsyncIterator[Self]:
        """Hold connections open while the block runs, as many as are needed."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=_PATIENCE
        ) as session:
            yield cls(session, api_url.rstrip("/"), key, **how)

    async def create(self) -> Box:
        """Make a sandbox."""
        asked = {"templateID": self.template, "timeout": _LIFETIME, "secure": True}
        made = await self.ask("POST", "/v2/sandboxes", asked)
        return _Box(self, made)

    async def ask(self, method: str, path: str, asked: object = None) -> Any:
        """Call the API; return what it answers, ``None`` if that is nothing."""
        async with self.session.request(
            method, self.api_url + path, json=asked, headers={"X-API-KEY": self.key}
        ) as answer:
            await _require(answer)
            return None if answer.status == _NO_CONTENT else await answer.json()


_NO_CONTENT: Final = 204


class _Box:
    def __init__(self, server: E2B, made: Mapping[str, Any]) -> None:
        self._server = server
        self._id: str = made["sandboxID"]
        self._domain: str = made.get("domain") or server.domain
        self._token: str = made.get("envdAccessToken") or ""

    async def execute(self) -> None:
        process = {"cmd": "/bin/bash", "args": ["-l", "-c", "echo 2"], "envs": {}}
        asked = json.dumps({"process": process, "stdin": False}).encode()
        headers = {"Connect-Protocol-Version": "1"}
        headers["Content-Type"] = "application/connect+json"
        written = b""
        path = "/process.Process/Start"
        async with self._post(_ENVD, path, _frame(asked), headers) as answer:
            async for message in _frames(answer.content):
                event = message.get("event", {})
                written += base64.b64decode(event.get("data", {}).get("stdout", ""))
        if written != b"2\n":
            raise WrongResultError(written)

    async def run_code(self) -> None:
        asked = json.dumps({"code": "1+1", "language": "python"}).encode()
        headers, results = {"Content-Type": "application/json"}, []
        async with self._post(_CODE, "/execute", asked, headers) as answer:
            async for line in answer.content:
                told = json.loads(line)
                if told.get("type") == "result":
                    results.append(told.get("text"))
        if results != ["2"]:
            raise WrongResultError(results)

    async def made_ahead(self) -> bool | None:
        return None

    async def destroy(self) -> None:
        await self._server.ask("DELETE", f"/sandboxes/{self._id}")

    @asynccontextmanager
    async def _post(
        self, port: int, path: str, body: bytes, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._server.sandbox_url or f"https://{port}-{self._id}.{self._domain}"
        ours = {"E2b-Sandbox-Id": self._id, "E2b-Sandbox-Port": str(port)}
        if self._token:
            ours["X-Access-Token"] = self._token
        async with self._server.session.post(
            url.rstrip("/") + path, data=body, headers={**headers, **ours}
        ) as answer:
            await _require(answer)
            yield answer


async def _require(answer: aiohttp.ClientResponse) -> None:
    if not answer.ok:
        text = (await answer.text())[:200]
        raise E2BError(f"{answer.method} {answer.url.path}: {answer.status} {text}")


def _frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


async def _frames(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Yield the messages of a Connect stream, up to its good end.

    Source: the Connect protocol, streaming RPCs.
    """
    while True:
        flags, length = struct.unpack(">BI", await content.readexactly(5))
        message = json.loads(await content.readexactly(length))
        if flags & _LAST:
            if error := message.get("error"):
                raise E2BError(f"{error.get('code')}: {error.get('message')}")
            return
        yield message
