"""`cubemesh.v1.Sessions`: what callers see of their sessions, and no more."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from cubemesh.v1 import router_pb2 as pb
from cubemesh.v1 import router_pb2_grpc as pb_grpc
from cubemesh.v1 import workloadmanager_pb2 as wm
from router._ask import Ask, read
from router._births import wanted
from router._errors import InvalidAskError, NotYoursError, RouterError
from router._refusals import reason_of, refuse
from router._registry import owner_of, principal_to_wire, session_of
from router._rules import belongs, fits, for_caller
from tlsloader.grpc import CALLER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from router._admission import Load
    from router._audit import Audit
    from router._births import Births
    from router._callers import Caller
    from router._locator import Locator
    from router._registry import Registry
    from router._sessions import Sessions

__all__ = ["Servicer"]

_SERVICE = "/cubemesh.v1.Sessions/"
_DEFAULT_TEMPLATE = "python"


class Servicer(pb_grpc.SessionsServicer):
    """Serves sessions out of the WorkloadManager's hands to those who own them."""

    def __init__(  # noqa: PLR0913 - the parts that have a say
        self,
        *,
        registry: Registry,
        sessions: Sessions,
        locator: Locator,
        births: Births,
        load: Load,
        audit: Audit,
    ) -> None:
        self._registry, self._sessions, self._locator = registry, sessions, locator
        self._births, self._load, self._audit = births, load, audit

    async def CreateSession(  # noqa: N802
        self, request: pb.SessionsCreateSessionRequest, context: Any
    ) -> pb.SessionsCreateSessionResponse:
        """Make a session of the caller's."""
        async with self._serving(context, "CreateSession") as (caller, ask):
            order = wanted(caller, ask, request.template or _DEFAULT_TEMPLATE)
            if request.HasField("lifetime"):
                order.lifetime.CopyFrom(request.lifetime)
            if request.HasField("idle_timeout"):
                order.idle_timeout.CopyFrom(request.idle_timeout)
            order.environment.update(request.environment)
            order.files.extend(request.files)
            order.secrets.update(request.secrets)
            made = await self._births.make(order)
            ask.session_id = made.session_id
            return pb.SessionsCreateSessionResponse(session=_shown(made))

    async def GetSession(  # noqa: N802
        self, request: pb.SessionsGetSessionRequest, context: Any
    ) -> pb.SessionsGetSessionResponse:
        """Tell about one session of the caller's."""
        async with self._serving(context, "GetSession") as (caller, ask):
            found = await self._own(caller, ask, request.session_id)
            return pb.SessionsGetSessionResponse(session=_shown(found))

    async def ListSessions(  # noqa: N802
        self, request: pb.SessionsListSessionsRequest, context: Any
    ) -> pb.SessionsListSessionsResponse:
        """List the caller's sessions; an administrator may ask for everybody's."""
        async with self._serving(context, "ListSessions") as (caller, ask):
            order = wm.ListSessionsRequest(
                namespace=ask.namespace,
                page_size=request.page_size,
                page_token=request.page_token,
            )
            if not request.all_owners:
                order.owner.CopyFrom(principal_to_wire(caller.principal))
            elif not caller.admin:
                raise NotYoursError("other people's sessions are not yours to list")
            page = await self._registry.page(order)
            return pb.SessionsListSessionsResponse(
                sessions=[_shown(each) for each in page.sessions],
                next_page_token=page.next_page_token,
            )

    async def ExtendSession(  # noqa: N802
        self, request: pb.SessionsExtendSessionRequest, context: Any
    ) -> pb.SessionsExtendSessionResponse:
        """Move the end of one session of the caller's."""
        async with self._serving(context, "ExtendSession") as (caller, ask):
            self._locator.require_manager()
            await self._own(caller, ask, request.session_id)
            moved = await self._registry.extend(request.session_id, request.lifetime)
            if (session := session_of(moved)) is not None:
                self._sessions.learn(session)
            return pb.SessionsExtendSessionResponse(session=_shown(moved))

    async def DeleteSession(  # noqa: N802
        self, request: pb.SessionsDeleteSessionRequest, context: Any
    ) -> pb.SessionsDeleteSessionResponse:
        """End one session of the caller's."""
        async with self._serving(context, "DeleteSession") as (caller, ask):
            self._locator.require_manager()
            await self._own(caller, ask, request.session_id)
            await self._registry.delete(request.session_id)
            self._sessions.end(request.session_id)
            return pb.SessionsDeleteSessionResponse()

    async def ListTemplates(  # noqa: N802
        self, request: pb.SessionsListTemplatesRequest, context: Any
    ) -> pb.SessionsListTemplatesResponse:
        """List what sandboxes can be made from."""
        del request
        async with self._serving(context, "ListTemplates"):
            templates = await self._registry.templates()
            return pb.SessionsListTemplatesResponse(templates=templates)

    async def _own(
        self, caller: Caller, ask: Ask, session_id: str
    ) -> wm.SandboxSession:
        """Return one session as it is now, if it is the caller's."""
        if not session_id:
            raise InvalidAskError("session_id is empty", field="session_id")
        ask.session_id = session_id
        found = await self._locator.look_up(session_id)
        belongs(owner_of(found), caller)
        fits(ask, found.namespace, found.template)
        return found

    @asynccontextmanager
    async def _serving(
        self, context: Any, method: str
    ) -> AsyncIterator[tuple[Caller, Ask]]:
        """Count the call, write its audit line, and end it well."""
        caller: Caller = CALLER.get()
        ask = Ask()
        entered = False
        try:
            self._load.enter()
            entered = True
            ask = read(context.invocation_metadata())
            yield caller, ask
            self._audit.say(caller.principal, _SERVICE + method, ask.session_id)
        except RouterError as error:
            told = for_caller(error, caller)
            reason = reason_of(told)
            self._audit.refused(caller, _SERVICE + method, ask, reason, str(told))
            await refuse(context, told)
        finally:
            if entered:
                self._load.open -= 1


def _shown(session: wm.SandboxSession) -> pb.Session:
    """Return *session* as its owner may see it: nothing of the mesh's inside."""
    shown = pb.Session(
        session_id=session.session_id,
        namespace=session.namespace,
        template=session.template,
        state=session.state,
        last_fault=session.last_fault,
        start=session.start,
    )
    for name in (
        "created_at",
        "expires_at",
        "idle_timeout",
        "last_activity",
        "isolation",
    ):
        if session.HasField(name):
            getattr(shown, name).CopyFrom(getattr(session, name))
    return shown
