"""A server by hand that speaks as much of E2B's protocol as the benchmark asks for."""

from __future__ import annotations

import base64
import json
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = "e2b_0123"
ENVD, CODE = "49983", "49999"


@dataclass(slots=True)
class FakeE2B:
    """Sandboxes are names; ``output`` is what each command writes, piece by piece."""

    output: list[bytes] = field(default_factory=lambda: [b"2", b"\n"])
    result: str = "2"
    refusal: dict[str, str] | None = None
    alive: dict[str, str] = field(default_factory=dict)
    created: int = 0
    started: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v2/sandboxes", self._create)
        app.router.add_delete("/sandboxes/{id}", self._delete)
        app.router.add_post("/process.Process/Start", self._start)
        app.router.add_post("/execute", self._execute)
        return app

    async def _create(self, request: web.Request) -> web.Response:
        if request.headers.get("X-API-KEY") != KEY:
            told = {"code": 401, "message": "unknown key"}
            return web.json_response(told, status=401)
        asked = await request.json()
        self.created += 1
        name, token = f"i{self.created}", f"token-{self.created}"
        self.alive[name] = token
        made = {
            "templateID": asked["templateID"],
            "sandboxID": name,
            "clientID": "c",
            "envdVersion": "0.6.4",
            "envdAccessToken": token,
        }
        return web.json_response(made, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        known = self.alive.pop(request.match_info["id"], None)
        return web.Response(status=404 if known is None else 204)

    def _require(self, request: web.Request, port: str) -> None:
        headers = request.headers
        token = self.alive.get(headers.get("E2b-Sandbox-Id", ""))
        if token is None or headers.get("X-Access-Token") != token:
            raise web.HTTPUnauthorized
        if headers.get("E2b-Sandbox-Port") != port:
            raise web.HTTPNotFound

    async def _start(self, request: web.Request) -> web.StreamResponse:
        self._require(request, ENVD)
        body = await request.read()
        flags, length = struct.unpack(">BI", body[:5])
        assert (flags, length) == (0, len(body) - 5)
        assert request.headers["Content-Type"] == "application/connect+json"
        self.started.append(json.loads(body[5:])["process"])
        answer = web.StreamResponse(
            headers={"Content-Type": "application/connect+json"}
        )
        await answer.prepare(request)
        for event in self._events():
            await answer.write(_frame(0, {"event": event}))
        last = {} if self.refusal is None else {"error": self.refusal}
        await answer.write(_frame(2, last))
        return answer

    def _events(self) -> list[dict[str, Any]]:
        data = [{"stdout": base64.b64encode(each).decode()} for each in self.output]
        return [
            {"start": {"pid": 7}},
            *({"data": each} for each in data),
            {"keepalive": {}},
            {"end": {"exited": True, "status": "exit status 0"}},
        ]

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        self._require(request, CODE)
        assert (await request.json())["code"] == "1+1"
        answer = web.StreamResponse()
        await answer.prepare(request)
        for told in (
            {"type": "number_of_executions", "execution_count": 1},
            {"type": "result", "text": self.result, "is_main_result": True},
            {"type": "end_of_execution"},
        ):
            await answer.write(json.dumps(told).encode() + b"\n")
        return answer


def _frame(flags: int, message: dict[str, Any]) -> bytes:
    raw = json.dumps(message).encode()
    return struct.pack(">BI", flags, len(raw)) + raw


@asynccontextmanager
async def serving(fake: FakeE2B) -> AsyncIterator[str]:
    """Serve on a free port; yield the URL."""
    runner = web.AppRunner(fake.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        _, port = runner.addresses[0][:2]
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
