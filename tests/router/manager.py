# ruff: noqa: N802 - the names are the contract's
"""A WorkloadManager as Routers see it: sessions by hand, on a real socket."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc

from auth import Principal
from cubemesh.v1 import workloadmanager_pb2 as wm
from cubemesh.v1 import workloadmanager_pb2_grpc as wm_grpc
from serving import Refusal, refuse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["ALICE", "BOB", "FakeManager", "session_id"]

ALICE = Principal(
    "spiffe://cluster.local", "spiffe://cluster.local/user/alice", "alice"
)
BOB = Principal("spiffe://cluster.local", "spiffe://cluster.local/user/bob", "bob")

EXPIRED = Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_EXPIRED")
UNKNOWN = Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


def session_id(number: int) -> str:
    """Return a well-formed session id."""
    digits = "abcdefghij"
    return "ses-" + "".join(digits[int(each)] for each in f"{number:026d}")


@dataclass
class FakeManager(wm_grpc.WorkloadManagerServicer):
    """Holds sessions and tells its watchers; counts what it is asked."""

    address: str = "unix:/nonexistent"
    spiffe_id: str = ""
    now: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    sessions: dict[str, wm.SandboxSession] = field(default_factory=dict)
    ended: dict[str, wm.SandboxSession] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    watchers: list[asyncio.Queue[wm.WatchSessionsResponse | None]] = field(
        default_factory=list
    )
    touches: asyncio.Queue[wm.TouchSessionsRequest] = field(
        default_factory=asyncio.Queue
    )
    created: list[wm.CreateSessionRequest] = field(default_factory=list)
    deleted: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    # Says no to the verb named, with this refusal.
    no: dict[str, Refusal] = field(default_factory=dict)
    # Verbs that wait before they answer.
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    watching: asyncio.Event = field(default_factory=asyncio.Event)
    snapshots: bool = True
    revision: int = 1

    def add(self, owner: Principal = ALICE, **fields: Any) -> wm.SandboxSession:
        """Make a ready session that watchers are not told of."""
        number = len(self.sessions) + len(self.ended) + 1
        made = wm.SandboxSession(
            session_id=session_id(number),
            sandbox_id=session_id(number).replace("ses-", "sbx-"),
            namespace="default",
            template="python",
            state=wm.SESSION_STATE_READY,
            address=self.address,
            spiffe_id=self.spiffe_id,
            proof_secret=b"secret",
        )
        made.owner.issuer, made.owner.subject = owner.key
        made.owner.display = owner.display
        made.created_at.FromDatetime(self.now)
        made.expires_at.FromDatetime(self.now + timedelta(hours=1))
        for name, value in fields.items():
            setattr(made, name, value)
        self.sessions[made.session_id] = made
        return made

    def tell(self, session: wm.SandboxSession) -> None:
        """Tell the watchers of a session's new state."""
        self.revision += 1
        event = wm.WatchSessionsResponse(revision=self.revision, changed=session)
        for watcher in self.watchers:
            watcher.put_nowait(event)

    def end(self, session: wm.SandboxSession, *, tell: bool = True) -> None:
        """End a session."""
        self.ended[session.session_id] = self.sessions.pop(session.session_id)
        session.state = wm.SESSION_STATE_ENDED
        if tell:
            self.tell(session)

    def beat(self) -> None:
        """Send a heartbeat."""
        self._send(heartbeat=wm.WatchSessionsResponse.Heartbeat())

    def query(self, asked: str) -> None:
        """Ask whether a session is in use."""
        query = wm.WatchSessionsResponse.ActivityQuery(session_id=asked)
        self._send(activity_query=query)

    def tell_waiting(self, *doors: tuple[str, str]) -> None:
        """Tell which sandboxes wait for a session: address and SPIFFE ID of each."""
        waiting = wm.WatchSessionsResponse.Waiting()
        for address, spiffe_id in doors:
            waiting.sandboxes.add(address=address, spiffe_id=spiffe_id)
        self._send(waiting=waiting)

    def cut(self) -> None:
        """End all watches."""
        for watcher in self.watchers:
            watcher.put_nowait(None)

    def _send(self, **event: Any) -> None:
        message = wm.WatchSessionsResponse(revision=self.revision, **event)
        for watcher in self.watchers:
            watcher.put_nowait(message)

    async def _verb(self, name: str, context: Any) -> None:
        self.asked[name] += 1
        if name in self.held:
            await self.held[name].wait()
        if name in self.no:
            await refuse(context, self.no[name], f"{name} refused", {"a": "b"})

    async def _find(self, asked: str, context: Any) -> wm.SandboxSession:
        if (gone := self.ended.get(asked)) is not None:
            metadata = {
                "session_id": asked,
                "ended_by": "ttl",
                "owner_issuer": gone.owner.issuer,
                "owner_subject": gone.owner.subject,
            }
            await refuse(context, EXPIRED, "the session has ended", metadata)
        if asked not in self.sessions:
            await refuse(context, UNKNOWN, "no such session")
        return self.sessions[asked]

    async def CreateSession(
        self, request: wm.CreateSessionRequest, context: Any
    ) -> wm.CreateSessionResponse:
        self.created.append(request)
        await self._verb("CreateSession", context)
        owner = request.owner
        made = self.add(Principal(owner.issuer, owner.subject, owner.display))
        made.namespace, made.template = request.namespace, request.template
        return wm.CreateSessionResponse(session=made)

    async def GetSession(
        self, request: wm.GetSessionRequest, context: Any
    ) -> wm.GetSessionResponse:
        await self._verb("GetSession", context)
        found = await self._find(request.session_id, context)
        return wm.GetSessionResponse(session=found)

    async def ListSessions(
        self, request: wm.ListSessionsRequest, context: Any
    ) -> wm.ListSessionsResponse:
        await self._verb("ListSessions", context)
        all_owners = not request.HasField("owner")
        found = [
            each
            for each in self.sessions.values()
            if all_owners or each.owner.subject == request.owner.subject
        ]
        return wm.ListSessionsResponse(sessions=found, next_page_token="more")

    async def ExtendSession(
        self, request: wm.ExtendSessionRequest, context: Any
    ) -> wm.ExtendSessionResponse:
        await self._verb("ExtendSession", context)
        found = await self._find(request.session_id, context)
        end = self.now + request.lifetime.ToTimedelta()
        found.expires_at.FromDatetime(end)
        return wm.ExtendSessionResponse(session=found)

    async def DeleteSession(
        self, request: wm.DeleteSessionRequest, context: Any
    ) -> wm.DeleteSessionResponse:
        await self._verb("DeleteSession", context)
        found = await self._find(request.session_id, context)
        self.end(found, tell=False)
        self.deleted.put_nowait(request.session_id)
        return wm.DeleteSessionResponse()

    async def TouchSessions(
        self, request: wm.TouchSessionsRequest, context: Any
    ) -> wm.TouchSessionsResponse:
        await self._verb("TouchSessions", context)
        self.touches.put_nowait(request)
        return wm.TouchSessionsResponse()

    async def ListTemplates(
        self, _: wm.ListTemplatesRequest, context: Any
    ) -> wm.ListTemplatesResponse:
        await self._verb("ListTemplates", context)
        return wm.ListTemplatesResponse(templates=[wm.Template(name="python")])

    async def WatchSessions(
        self, request: wm.WatchSessionsRequest, context: Any
    ) -> AsyncIterator[wm.WatchSessionsResponse]:
        await self._verb("WatchSessions", context)
        self.asked["resumed"] = request.resume_revision
        events: asyncio.Queue[wm.WatchSessionsResponse | None] = asyncio.Queue()
        self.watchers.append(events)
        if self.snapshots:
            snapshot = wm.WatchSessionsResponse.Snapshot(
                sessions=self.sessions.values(), complete=True
            )
            yield wm.WatchSessionsResponse(revision=self.revision, snapshot=snapshot)
        self.watching.set()
        try:
            while (event := await events.get()) is not None:
                yield event
        finally:
            self.watchers.remove(events)
