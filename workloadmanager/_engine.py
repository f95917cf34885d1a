"""What makes sandboxes and ends them: the one thing that sessions ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from workloadmanager._contents import Contents

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from workloadmanager._templates import Template
    from workloadmanager._values import Isolation, Owner, Session

__all__ = ["Activity", "Binding", "Engine", "Sandbox"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a sandbox gets once in its life: its session.

    *environment* may hold secrets, *contents* does.
    """

    session_id: str
    owner: Owner
    expires_at: datetime
    environment: Mapping[str, str] = field(repr=False)
    contents: Contents = field(default_factory=Contents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox that runs commands once it has its session.

    *record* is the engine's own text by which a later process finds it; it holds no
    secret.
    """

    sandbox_id: str
    address: str
    spiffe_id: str
    isolation: Isolation
    record: str


@dataclass(frozen=True, slots=True)
class Activity:
    """What a sandbox itself says of its use, and what last went wrong in it."""

    open_calls: int
    last_activity: datetime
    last_fault: str = ""


class Engine(Protocol):
    """Makes, finds and ends sandboxes of one kind."""

    def level(self, template: Template) -> str:
        """Return the level of isolation that sandboxes of *template* have."""

    def reserve(self) -> str:
        """Return the id of the next sandbox, never given before: the soonest made.

        Whoever got it calls `make`, or `destroy` to give it up.
        """

    async def make(
        self, sandbox_id: str, template: Template, binding: Binding | None = None
    ) -> Sandbox:
        """Make a sandbox: a blank one, or for the session of *binding*.

        Whoever gets an exception, also a cancellation, calls `destroy`.

        Raises:
            SandboxStartError: it did not come to life, or nobody says who it is.
            PoolExhaustedError: there is no room for it.
        """

    async def bind(self, sandbox_id: str, binding: Binding) -> None:
        """Give a blank sandbox its session, once and for all.

        Whoever gets an exception, also a cancellation, calls `destroy`: whether it
        has it is not known.

        Raises:
            BindingError: it did not confirm that it has it.
            BindingRefusedError: it cannot have what is to be in it.
        """

    async def destroy(self, sandbox_id: str, record: str) -> None:
        """End every process of the sandbox and remove its files.

        Returns when all of it is gone; a sandbox that is not there is fine.
        """

    async def adopt(self, session: Session) -> Activity | None:
        """Take over the living sandbox of *session*; None: it is not there any more."""

    async def activity(self, sandbox_id: str) -> Activity | None:
        """Ask the sandbox itself whether it is in use; None: it does not say."""

    async def sweep(self, known: Collection[str]) -> None:
        """Destroy whatever sandboxes are left that nobody knows."""

    def forget(self, sandbox_id: str) -> None:
        """Remove the last traces, such as the log, of a sandbox long gone."""

    def watch(self, died: Callable[[str, str], None]) -> None:
        """Call *died* (sandbox id, reason) when one ends by itself."""
