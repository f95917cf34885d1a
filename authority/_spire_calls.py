"""What is said to a SPIRE server and to one of its agents, over their Unix sockets.

Source: SPIRE 1.15, Entry API of the server and Delegated Identity API of the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from authority import _spire_pb2 as pb
from authority._errors import AuthorityError
from authority._spire_wire import id_to_wire, selector_of
from tlsloader.workload import AGENT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from google.protobuf.message import Message

    from tlsloader import SpiffeID

__all__ = ["Calls"]

_ENTRIES: Final = "/spire.api.server.entry.v1.Entry"
_DELEGATED: Final = "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity"
_PATIENCE: Final = 10.0
_PAGE: Final = 500
_DONE: Final = frozenset((0, 5))  # OK, and NOT_FOUND: it is gone all the same
_MADE: Final = frozenset((0, 6))  # OK, and ALREADY_EXISTS


class Calls:
    """The two ends of one SPIRE; *server* and *agent* are gRPC targets.

    Every method raises an AuthorityError whose reason begins with ``server_`` or
    ``agent_``.
    """

    def __init__(self, server: str, agent: str) -> None:
        self._places = {"server": server, "agent": agent}
        self._server = grpc.aio.insecure_channel(server, options=AGENT_OPTIONS)
        self._agent = grpc.aio.insecure_channel(agent, options=AGENT_OPTIONS)

    async def aclose(self) -> None:
        """Let go of both."""
        await self._server.close()
        await self._agent.close()

    async def create(self, entries: Sequence[pb.Entry]) -> list[str]:
        """Make *entries*, or find those that are there; return their numbers."""
        request = pb.BatchCreateEntryRequest(entries=entries)
        answer = await self._ask("BatchCreateEntry", request)
        made = [r.entry.id for r in answer.results if r.status.code in _MADE]
        if len(made) < len(entries):
            raise _refused("an entry", answer)
        return made

    async def delete(self, numbers: Sequence[str]) -> list[str]:
        """Delete entries; return the numbers of those that are gone, at least one."""
        request = pb.BatchDeleteEntryRequest(ids=numbers)
        answer = await self._ask("BatchDeleteEntry", request)
        gone = [each.id for each in answer.results if each.status.code in _DONE]
        if not gone:
            raise _refused("to delete an entry", answer)
        return gone

    async def entries(self, parent: SpiffeID) -> list[pb.Entry]:
        """Return all entries below *parent*."""
        of_parent = pb.ListEntriesRequest.Filter(by_parent_id=id_to_wire(parent))
        request = pb.ListEntriesRequest(filter=of_parent, page_size=_PAGE)
        found: list[pb.Entry] = []
        while True:
            answer = await self._ask("ListEntries", request)
            found += answer.entries
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found

    def svids(self, identity: SpiffeID) -> AsyncGenerator[Any, None]:
        """Yield what the selector of *identity* is given, now and at each change."""
        request = pb.SubscribeToX509SVIDsRequest(selectors=[selector_of(identity)])
        answer = pb.SubscribeToX509SVIDsResponse
        return self._listen("SubscribeToX509SVIDs", request, answer)

    def bundles(self) -> AsyncGenerator[Any, None]:
        """Yield the agent's bundles, now and at each change."""
        request = pb.SubscribeToX509BundlesRequest()
        answer = pb.SubscribeToX509BundlesResponse
        return self._listen("SubscribeToX509Bundles", request, answer)

    async def _ask(self, method: str, request: Message) -> Any:
        call: Any = self._server.unary_unary(
            f"{_ENTRIES}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        try:
            return await call(request, timeout=_PATIENCE)
        except grpc.aio.AioRpcError as error:
            raise self._fault("server", error) from error

    async def _listen(
        self, method: str, request: Message, answer: type[Message]
    ) -> AsyncGenerator[Any, None]:
        subscribe: Any = self._agent.unary_stream(
            f"{_DELEGATED}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        call = subscribe(request)
        try:
            async for said in call:
                yield said
        except grpc.aio.AioRpcError as error:
            raise self._fault("agent", error) from error
        finally:
            call.cancel()
        text = f"the SPIRE agent at {self._places['agent']} ended the conversation"
        raise AuthorityError("agent_unavailable", text, hint="see that it runs")

    def _fault(self, who: str, error: grpc.aio.AioRpcError) -> AuthorityError:
        place, said = self._places[who], error.details()
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            text = f"the SPIRE {who} at {place} is not there ({said})"
            hint = f"see that spire-{who} runs and its socket is ours to open"
            return AuthorityError(f"{who}_unavailable", text, hint=hint)
        if error.code() is grpc.StatusCode.PERMISSION_DENIED:
            text = f"the SPIRE {who} at {place} does not know us ({said})"
            hint = "make an entry for this process and list it in authorized_delegates"
            return AuthorityError(f"{who}_denied", text, hint=hint)
        text = f"the SPIRE {who} at {place} failed: {error.code().name} {said}"
        return AuthorityError(f"{who}_failed", text, hint=f"see spire-{who}'s log")


def _refused(what: str, answer: Any) -> AuthorityError:
    words = {each.status.message for each in answer.results} - {""}
    text = f"the SPIRE server refuses {what}: {'; '.join(sorted(words))}"
    hint = "is the parent an agent of it, and the trust domain its own?"
    return AuthorityError("server_refused", text, hint=hint)
