"""Identities from a SPIFFE agent, by the Workload API.

Apart from the rest of the room, like `tlsloader.grpc`, because it speaks gRPC.

Source: SPIFFE Workload API, sections 4 and 5; SPIFFE Workload Endpoint, section 6.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NoReturn, Self

import grpc
import grpc.aio

from clock import SYSTEM
from tlsloader._ear import Ear
from tlsloader._endpoint import parse_endpoint
from tlsloader._errors import MaterialError
from tlsloader._files import read_foreign
from tlsloader._kept import KeptSource
from tlsloader._material import Material
from tlsloader._source import FileSource
from tlsloader._svids import pick, snapshot
from tlsloader._watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from spiffe._proto import workload_pb2

    from clock import Clock
    from tlsloader._files import Paths, Snapshot
    from tlsloader._spiffe import SpiffeID

__all__ = ["WorkloadAPISource", "load_source"]

_log = logging.getLogger(__name__)

_METHOD: Final = "/SpiffeWorkloadAPI/FetchX509SVID"
_METADATA: Final = (("workload.spiffe.io", "true"),)
# gRPC's own waiting, up to two minutes, and ours: together below a second
_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # bounds an attempt, not the waiting
    ("grpc.max_reconnect_backoff_ms", 400),
)
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.25
_LONGEST_PAUSES: Final = {
    grpc.StatusCode.PERMISSION_DENIED: 0.8,  # an entry may be made at any time
    grpc.StatusCode.INVALID_ARGUMENT: 30.0,  # our fault or the agent's: it will stay
    grpc.StatusCode.UNIMPLEMENTED: 30.0,
}
_FIRST_LOOKS: Final = 0.1


class WorkloadAPISource(KeptSource):
    """The newest good identity that an agent gave.

    ``load`` it, then let somebody run ``follow``. An agent that is gone, or gives us
    no identity any more, changes nothing before the last good one expires.
    """

    def __init__(self, agent: _Agent, first: tuple[Snapshot, Material]) -> None:
        judged, material = first
        super().__init__(material, agent.clock)
        self._agent = agent
        self._digest = judged.digest

    @classmethod
    async def load(
        cls,
        endpoint: str,
        foreign: Mapping[str, Path] | None = None,
        *,
        spiffe_id: SpiffeID | None = None,
        clock: Clock = SYSTEM,
        wait: float = 30.0,
    ) -> Self:
        """Return a source that holds the first generation.

        Args:
            endpoint: ``unix:///path``, where the agent is.
            foreign: files with the bundles of trust domains that the agent knows
                nothing of, or shall not be asked about.
            spiffe_id: whom to be, if the agent knows us by several identities.
            clock: what tells the time.
            wait: seconds to wait for an agent that knows us.

        Raises:
            MaterialError: there is no usable identity after *wait* seconds.
            ValueError: *endpoint* is no such address.
        """
        agent = _Agent(endpoint, foreign or {}, spiffe_id, clock)
        async with agent.asked(lambda _: None):
            first = await agent.awaited(wait)
        if isinstance(first, MaterialError):
            raise first  # only here: a task group would wrap it
        return cls(agent, first)

    async def follow(self, *, poll: float = 5.0) -> NoReturn:
        """Take each good change, from the agent and of the files, until cancelled.

        Args:
            poll: seconds between two looks at what did not tell of a change: files,
                and answers that were not good yet.
        """
        agent = self._agent
        with Watch(agent.foreign.values(), agent.ear.hear) as watching:
            async with agent.asked(self._count):
                while True:
                    watching.arm()
                    await self._look()
                    await agent.ear.listen(poll)

    async def _look(self) -> None:
        self._tell_expiry()
        held = self._material
        try:
            judged, fresh = await asyncio.to_thread(
                self._agent.judge, held, digest=self._digest
            )
        except MaterialError as error:
            self._keep(error)
            return
        self._fault = None
        self._digest = judged.digest
        if fresh != held:
            self._publish(fresh)


class _Agent:
    """The conversation with an agent, begun anew whenever it ends."""

    def __init__(
        self,
        endpoint: str,
        foreign: Mapping[str, Path],
        wanted: SpiffeID | None,
        clock: Clock,
    ) -> None:
        self.foreign = dict(foreign)
        self.clock = clock
        self.ear = Ear(clock)
        self._target = parse_endpoint(endpoint)
        self._wanted = wanted
        self._said: workload_pb2.X509SVIDResponse | None = None
        self._lost: MaterialError | None = None

    def judge(
        self,
        held: Material | None = None,
        *,
        digest: bytes | None = None,
        complete: bool = False,
    ) -> tuple[Snapshot, Material]:
        """Return what the agent said last, judged; blocks on file I/O.

        *held* comes back itself while nothing differs from its *digest*.

        Raises:
            MaterialError: it does not form one usable identity.
        """
        said = self._said
        if said is None:
            text = f"the SPIFFE agent at {self._target} has not answered yet"
            raise self._lost or MaterialError("agent_silent", text)
        svid = pick(said, self._wanted, held.identity if held else None)
        files = read_foreign(self.foreign, complete=complete)
        found = snapshot(svid, said.federated_bundles, files)
        if held is not None and found.digest == digest:
            return found, held
        generation = held.generation + 1 if held else 1
        material = Material.judged(found, now=self.clock.now(), generation=generation)
        if str(material.identity) != svid.spiffe_id:
            text = f"the agent calls {material.identity} {svid.spiffe_id!r}"
            raise MaterialError("other_identity", text)
        return found, material

    async def awaited(self, wait: float) -> tuple[Snapshot, Material] | MaterialError:
        """Return the first good answer, or what is wrong after *wait* seconds."""
        deadline = self.clock.monotonic() + wait
        told: str | None = None
        while True:
            try:
                return await asyncio.to_thread(self.judge, complete=True)
            except MaterialError as error:
                if self.clock.monotonic() >= deadline:
                    return error
                if str(error) != told:
                    told = str(error)
                    fields = {"reason": error.reason, "detail": told}
                    _log.warning("identity awaited", extra=fields)
            await self.ear.listen(_FIRST_LOOKS)

    @asynccontextmanager
    async def asked(self, lost: Callable[[MaterialError], None]) -> AsyncIterator[None]:
        """Listen to the agent while the block runs; *lost* is told of each loss."""
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(lost))
            try:
                yield
            finally:
                listening.cancel()

    async def _listen(self, lost: Callable[[MaterialError], None]) -> NoReturn:
        # Only here: its package takes a while, and brings much that nobody asked for
        from spiffe._proto import workload_pb2 as messages  # noqa: PLC0415

        async with grpc.aio.insecure_channel(self._target, options=_OPTIONS) as channel:
            fetch = channel.unary_stream(
                _METHOD,
                request_serializer=messages.X509SVIDRequest.SerializeToString,
                response_deserializer=messages.X509SVIDResponse.FromString,
            )
            pause = _FIRST_PAUSE
            while True:
                code, text = None, "it ended the conversation"
                try:
                    request = messages.X509SVIDRequest()
                    async for said in fetch(request, metadata=_METADATA):
                        self._said, self._lost = said, None
                        pause = _FIRST_PAUSE
                        self.ear.hear()
                except grpc.aio.AioRpcError as error:
                    code, text = error.code(), error.details() or ""
                self._lose(code, text, lost)
                await self.clock.sleep(pause)
                longest = _LONGEST_PAUSE if code is None else _longest(code)
                pause = min(2 * pause, longest)

    def _lose(
        self,
        code: grpc.StatusCode | None,
        text: str,
        lost: Callable[[MaterialError], None],
    ) -> None:
        error = self._loss(code, text)
        if self._lost is None or self._lost.reason != error.reason:
            self._lost = error
            lost(error)

    def _loss(self, code: grpc.StatusCode | None, text: str) -> MaterialError:
        where = f"the SPIFFE agent at {self._target}"
        match code:
            case grpc.StatusCode.PERMISSION_DENIED:
                remedy = "make an entry whose selectors are this process's"
                sentence = f"{where} gives us no identity ({text}); {remedy}"
                return MaterialError("withdrawn", sentence)
            case None | grpc.StatusCode.UNAVAILABLE:
                sentence = f"{where} is not there ({text}); see that it runs"
                return MaterialError("agent_unavailable", sentence)
        return MaterialError("agent_failed", f"{where} failed: {code.name} {text}")


def _longest(code: grpc.StatusCode) -> float:
    return _LONGEST_PAUSES.get(code, _LONGEST_PAUSE)


async def load_source(
    files: Paths | None,
    endpoint: str | None,
    foreign: Mapping[str, Path],
    spiffe_id: SpiffeID | None = None,
) -> FileSource | WorkloadAPISource:
    """Return the source that a service was told to have: *files*, or the agent's.

    Raises:
        MaterialError: it gives no usable identity in time.
        ValueError: neither is told, or both are.
    """
    if (files is None) == (endpoint is None):
        raise ValueError("an identity comes from files or from an agent")
    if files is not None:
        return await FileSource.load(files, foreign)
    return await WorkloadAPISource.load(str(endpoint), foreign, spiffe_id=spiffe_id)
