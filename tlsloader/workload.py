"""Identities from a SPIFFE agent, by the Workload API.

Apart from the rest of the room, like `tlsloader.grpc`, because it speaks gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NoReturn, Self

from clock import SYSTEM
from tlsloader._agent import Agent
from tlsloader._errors import MaterialError
from tlsloader._files import looked
from tlsloader._kept import KeptSource
from tlsloader._material import Judged, Material
from tlsloader._snapshot import BundlePaths
from tlsloader._source import FileSource
from tlsloader._svids import pick, snapshot
from tlsloader._watch import Watch

if TYPE_CHECKING:
    from clock import Clock
    from tlsloader._snapshot import Paths, Snapshot
    from tlsloader._spiffe import SpiffeID

__all__ = ["WorkloadAPISource", "load_source"]

_log = logging.getLogger(__name__)

_FIRST_LOOKS: Final = 0.1
_PATIENCE: Final = 5.0


class WorkloadAPISource(KeptSource):
    """The newest good identity that an agent gave.

    ``load`` it, then let somebody run ``follow``. An agent that is gone, or gives us
    no identity any more, changes nothing before the last good one expires.
    """

    kind = "workload_api"

    def __init__(
        self, agent: Agent, offers: _Offers, first: tuple[Snapshot, Material]
    ) -> None:
        files, material = first
        super().__init__(material, offers.clock)
        self._agent = agent
        self._offers = offers
        self._digest = files.digest

    @classmethod
    async def load(
        cls,
        endpoint: str,
        bundles: BundlePaths | None = None,
        *,
        spiffe_id: SpiffeID | None = None,
        clock: Clock = SYSTEM,
        wait: float = 30.0,
    ) -> Self:
        """Return a source that holds the first generation.

        Args:
            endpoint: ``unix:///path``, where the agent is.
            bundles: files with the bundles of trust domains that the agent knows
                nothing of, or shall not be asked about.
            spiffe_id: whom to be, if the agent knows us by several identities.
            clock: what tells the time.
            wait: seconds to wait for an agent that knows us.

        Raises:
            MaterialError: there is no usable identity after *wait* seconds.
            ValueError: *endpoint* is no such address.
        """
        agent = Agent(endpoint, clock)
        offers = _Offers(agent, bundles or BundlePaths(), spiffe_id, clock)
        async with agent.asked(
            lambda _: None, patience=_PATIENCE, seconds_left=lambda: 0.0
        ):
            first = await offers.awaited(wait)
        if isinstance(first, MaterialError):
            raise first  # only here: a task group would wrap it
        return cls(agent, offers, first)

    async def follow(
        self, *, poll: float = 5.0, patience: float = _PATIENCE
    ) -> NoReturn:
        """Take each good change, from the agent and of the files, until cancelled.

        Args:
            poll: seconds between two looks at what did not tell of a change: files,
                and answers that were not good yet.
            patience: seconds within which an agent that is well answers.
        """
        ear, bundles = self._agent.ear, self._offers.bundles
        asked = self._agent.asked(
            self._count, patience=patience, seconds_left=lambda: self.seconds_left
        )
        with Watch(bundles.files.values(), bundles.folder, ear.hear) as watching:
            async with asked:
                while True:
                    self._tell_expiry()
                    await self._look(watching)
                    await ear.listen(poll)

    async def _look(self, watching: Watch) -> None:
        try:
            found = await asyncio.to_thread(self._find, watching)
        except MaterialError as error:
            self._keep(error)
            return
        if found is None:
            self._confirm()
            return
        self._digest, judged = found
        self._take(judged)

    def _find(self, watching: Watch) -> tuple[bytes, Judged] | None:
        """Return what there is to be now, if it is something else; blocks."""
        watching.arm()
        held = self._material
        name, files = self._offers.read(held.identity)
        if files.digest == self._digest:
            return None
        judged = held.renewed(files, now=self._clock.now())
        _require_name(judged.material, name)
        return files.digest, judged

    def _in_touch(self) -> bool:
        return self._agent.lost is None


class _Offers:
    """What an agent offers us to be, with the bundles that are in files."""

    def __init__(
        self,
        agent: Agent,
        bundles: BundlePaths,
        wanted: SpiffeID | None,
        clock: Clock,
    ) -> None:
        self.bundles = bundles
        self.clock = clock
        self._agent = agent
        self._wanted = wanted

    def read(
        self, current: SpiffeID | None, *, complete: bool = False
    ) -> tuple[str, Snapshot]:
        """Return whom we can be, by the agent's word, and all of it; blocks.

        Raises:
            MaterialError: nothing of use is offered.
        """
        said = self._agent.answer()
        svid = pick(said, self._wanted, current)
        files = looked(lambda look: self.bundles.read(look, complete=complete))
        return svid.spiffe_id, snapshot(svid, said.federated_bundles, files)

    async def awaited(self, wait: float) -> tuple[Snapshot, Material] | MaterialError:
        """Return the first good offer, or what is wrong after *wait* seconds."""
        deadline = self.clock.monotonic() + wait
        told: str | None = None
        while True:
            try:
                return await asyncio.to_thread(self._first)
            except MaterialError as error:
                if self.clock.monotonic() >= deadline:
                    return error
                if str(error) != told:
                    told = str(error)
                    fields = {"reason": error.reason, "detail": told}
                    _log.warning("identity awaited", extra=fields)
            await self._agent.ear.listen(_FIRST_LOOKS)

    def _first(self) -> tuple[Snapshot, Material]:
        name, files = self.read(None, complete=True)
        material = Material.judged(files, now=self.clock.now())
        _require_name(material, name)
        return files, material


def _require_name(material: Material, name: str) -> None:
    if str(material.identity) != name:
        text = f"the agent calls {material.identity} {name!r}"
        raise MaterialError("other_identity", text)


async def load_source(
    files: Paths | None,
    endpoint: str | None,
    bundles: BundlePaths,
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
        return await FileSource.load(files, bundles)
    return await WorkloadAPISource.load(str(endpoint), bundles, spiffe_id=spiffe_id)
