"""Identities from a SPIFFE agent, by the Workload API.

Apart from the rest of the room, like `tlsloader.grpc`, because it speaks gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn, Self

from clock import SYSTEM
from tlsloader._agent import AGENT_OPTIONS, Agent
from tlsloader._errors import MaterialError
from tlsloader._files import looked
from tlsloader._followed import FollowedSource, awaited
from tlsloader._material import Material
from tlsloader._snapshot import BundlePaths
from tlsloader._source import FileSource
from tlsloader._svids import pick, snapshot
from tlsloader._watch import Watch

if TYPE_CHECKING:
    from clock import Clock
    from tlsloader._snapshot import Paths, Snapshot
    from tlsloader._spiffe import SpiffeID

__all__ = ["AGENT_OPTIONS", "WorkloadAPISource", "load_source"]

_FIRST_LOOKS: Final = 0.1
_PATIENCE: Final = 5.0


class WorkloadAPISource(FollowedSource):
    """The newest good identity that an agent gave.

    ``load`` it, then let somebody run ``follow``. An agent that is gone, or gives us
    no identity any more, changes nothing before the last good one expires.
    """

    kind = "workload_api"

    def __init__(
        self, offers: _Offers, first: tuple[Snapshot, Material], clock: Clock
    ) -> None:
        super().__init__(first, clock)
        self._offers = offers
        self._watch: Watch | None = None

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
        offers = _Offers(agent, bundles or BundlePaths(), spiffe_id)

        def find() -> tuple[Snapshot, Material]:
            files = offers.read(None, complete=True)
            return files, Material.judged(files, now=clock.now())

        pause = partial(agent.ear.listen, _FIRST_LOOKS)
        async with agent.asked(_nobody, patience=_PATIENCE, seconds_left=lambda: 0.0):
            try:
                first = await awaited(find, pause, clock=clock, wait=wait)
            except MaterialError as error:
                fault = error  # raised below: a task group would wrap it
            else:
                return cls(offers, first, clock)
        raise fault

    async def follow(
        self, *, poll: float = 5.0, patience: float = _PATIENCE
    ) -> NoReturn:
        """Take each good change, from the agent and of the files, until cancelled.

        Args:
            poll: seconds between two looks at what did not tell of a change: files,
                and answers that were not good yet.
            patience: seconds within which an agent that is well answers.
        """
        agent, bundles = self._offers.agent, self._offers.bundles
        files, ear = bundles.files.values(), agent.ear
        with Watch(files, ear.hear, bundles.folder) as self._watch:
            async with agent.asked(
                self._count, patience=patience, seconds_left=lambda: self.seconds_left
            ):
                while True:
                    await self._look()
                    await ear.listen(poll)

    def _find(self) -> Snapshot:
        if self._watch is not None:
            self._watch.arm()
        return self._offers.read(self._material.identity)

    def _in_touch(self) -> bool:
        return self._offers.agent.lost is None


@dataclass(frozen=True, slots=True)
class _Offers:
    """What an agent offers us to be, with the bundles that are in files."""

    agent: Agent
    bundles: BundlePaths
    wanted: SpiffeID | None

    def read(self, current: SpiffeID | None, *, complete: bool = False) -> Snapshot:
        """Return what there is to be, for us who are *current*; blocks on file I/O.

        Raises:
            MaterialError: nothing of use is offered.
        """
        said = self.agent.answer()
        svid = pick(said, self.wanted, current)
        files = looked(partial(self.bundles.read, complete=complete))
        return snapshot(svid, said.federated_bundles, files)


def _nobody(_: MaterialError) -> None:
    """Tell nobody that the agent is lost: it is awaited."""


async def load_source(
    files: Paths | None,
    endpoint: str | None,
    bundles: BundlePaths,
    spiffe_id: SpiffeID | None = None,
    *,
    wait: float = 30.0,
) -> FileSource | WorkloadAPISource:
    """Return the source that a service was told to have: *files*, or the agent's.

    It may take *wait* seconds until there is something to load.

    Raises:
        MaterialError: it gives no usable identity in time.
        ValueError: neither is told, or both are.
    """
    if (files is None) == (endpoint is None):
        raise ValueError("an identity comes from files or from an agent")
    if files is not None:
        return await FileSource.load(files, bundles, wait=wait)
    return await WorkloadAPISource.load(
        str(endpoint), bundles, spiffe_id=spiffe_id, wait=wait
    )
