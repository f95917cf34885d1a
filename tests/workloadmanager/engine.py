"""An engine that makes sandboxes of thin air, and the parts of a small house."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from clock import SYSTEM, Clock
from workloadmanager._contents import Contents
from workloadmanager._demand import Capacity
from workloadmanager._engine import Activity, Binding, Sandbox
from workloadmanager._ids import sandbox_id
from workloadmanager._sessions import Sessions
from workloadmanager._store import Store
from workloadmanager._templates import Template, Templates
from workloadmanager._values import Isolation, Owner, Session, Wish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from pathlib import Path

    from tests.fakes import FakeClock

ANN = Owner("spiffe://cluster.local", "spiffe://cluster.local/user/ann", "ann")
BOB = Owner("spiffe://cluster.local", "spiffe://cluster.local/user/bob", "bob")
_FEW = Capacity(100)
_EMPTY = Contents()
SHORT = Template(
    name="short",
    default_lifetime=timedelta(minutes=10),
    maximum_lifetime=timedelta(minutes=20),
    idle_timeout=timedelta(minutes=5),
)


async def until(condition: Callable[[], object]) -> None:
    """Return once *condition* holds; fail after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await SYSTEM.sleep(0.001)


async def sleeper(clock: FakeClock, seconds: float) -> None:
    """Return once somebody sleeps who is to wake in exactly so many seconds."""
    wake = clock.now() + timedelta(seconds=seconds)
    await until(lambda: any(entry[0] == wake for entry in clock._sleepers))


def wish(  # noqa: PLR0913  # as many as a wish has
    owner: Owner = ANN,
    *,
    namespace: str = "default",
    template: str = "short",
    request_id: str = "",
    lifetime: timedelta | None = None,
    idle_timeout: timedelta | None = None,
    environment: dict[str, str] | None = None,
    contents: Contents = _EMPTY,
) -> Wish:
    return Wish(
        owner=owner,
        namespace=namespace,
        template=template,
        request_id=request_id,
        lifetime=lifetime,
        idle_timeout=idle_timeout,
        environment=environment or {},
        contents=contents,
    )


class FakeEngine:
    """Keeps its sandboxes in a dict.

    `gate` holds makings up, `fault` fails them; so do `binding` and `refusal` when a
    blank one gets its session.
    """

    def __init__(self) -> None:
        self.alive: dict[str, Template] = {}
        self.bound: dict[str, Binding] = {}
        self.destroyed: list[str] = []
        self.forgotten: list[str] = []
        self.begun = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.binding = asyncio.Event()
        self.binding.set()
        self.refusal: Exception | None = None
        self.stubborn = 0  # how many destructions fail first
        self.says: Activity | None = None
        self.adoptable: set[str] = set()
        self.swept: set[str] | None = None
        self.died: Callable[[str, str], None] = lambda _sandbox, _reason: None

    def level(self, template: Template) -> str:
        return template.isolation or "bwrap"

    def reserve(self) -> str:
        return sandbox_id()

    async def make(
        self, sandbox_id: str, template: Template, binding: Binding | None = None
    ) -> Sandbox:
        self.begun += 1
        self.alive[sandbox_id] = template
        if binding is not None:
            self.bound[sandbox_id] = binding
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return Sandbox(
            sandbox_id=sandbox_id,
            address=f"unix:/run/{sandbox_id}/data.sock",
            spiffe_id=f"spiffe://sandbox.cluster.local/ns/x/sandbox/{sandbox_id}",
            isolation=Isolation("none", 0, own_uid=False),
            record=f"record of {sandbox_id}",
        )

    async def bind(self, sandbox_id: str, binding: Binding) -> None:
        self.bound[sandbox_id] = binding
        await self.binding.wait()
        if self.refusal is not None:
            raise self.refusal

    async def destroy(self, sandbox_id: str, record: str) -> None:
        del record
        if self.stubborn:
            self.stubborn -= 1
            raise OSError("it would not go")
        self.alive.pop(sandbox_id, None)
        self.destroyed.append(sandbox_id)

    async def adopt(self, session: Session) -> Activity | None:
        if session.sandbox_id not in self.adoptable:
            return None
        return Activity(0, session.last_activity)

    async def activity(self, sandbox_id: str) -> Activity | None:
        del sandbox_id
        return self.says

    async def sweep(self, known: Collection[str]) -> None:
        self.swept = set(known)

    def forget(self, sandbox_id: str) -> None:
        self.forgotten.append(sandbox_id)

    def watch(self, died: Callable[[str, str], None]) -> None:
        self.died = died


class House:
    """Sessions over a store in *folder* and a fake engine."""

    def __init__(self, sessions: Sessions, engine: FakeEngine, store: Store) -> None:
        self.sessions, self.engine, self.store = sessions, engine, store

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        clock: Clock,
        *,
        engine: FakeEngine | None = None,
        capacity: Capacity = _FEW,
    ) -> AsyncIterator[House]:
        store = await Store.open(folder / "sessions.db")
        engine = engine or FakeEngine()
        sessions = Sessions(
            store=store,
            engine=engine,
            templates=Templates([SHORT]),
            capacity=capacity,
            clock=clock,
        )
        try:
            async with asyncio.timeout(30), sessions.running():
                yield cls(sessions, engine, store)
        finally:
            await store.close()
