"""What PicoD knows about its one sandbox: whose it is, what is going on, its end."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clock import SYSTEM, Clock
from picod._errors import (
    AlreadyBoundError,
    InvalidRequestError,
    NotBoundError,
    RunnerFaultError,
    ShuttingDownError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from auth import Principal

__all__ = ["Binding", "Sandbox"]

_SESSION_ID = re.compile(r"ses-[a-z2-7]{26}\Z")
_VARIABLE = re.compile(r"[^=\0]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a sandbox gets once in its life: its session.

    Raises:
        InvalidRequestError: no sandbox could be bound to this.
    """

    session_id: str
    owner: Principal
    # Values may be secrets: they are in no log and in no text of this object.
    environment: Mapping[str, str] = field(repr=False)
    expires_at: datetime

    def __post_init__(self) -> None:
        if not _SESSION_ID.match(self.session_id):
            raise InvalidRequestError("the session id is malformed")
        for name, value in self.environment.items():
            if not _VARIABLE.match(name) or "\0" in value:
                raise InvalidRequestError("an environment variable is malformed")


class Sandbox:
    """The state of one sandbox, from its making to its end."""

    def __init__(
        self, sandbox_id: str, *, starting: bool = False, clock: Clock = SYSTEM
    ) -> None:
        self.sandbox_id = sandbox_id
        self._starting = starting  # the runner is: nothing can be asked of it yet
        self.open_calls = 0
        self.last_activity: datetime = clock.now()
        self.last_fault = self._noted = ""
        self.last_control = clock.monotonic()
        self.ended = asyncio.Event()
        self.ended_by = ""
        self.fault_told = asyncio.Event()
        self._clock = clock
        self._taken = False  # somebody binds it, did, or failed to
        self._binding: Binding | None = None
        self._bound = asyncio.Event()

    @property
    def binding(self) -> Binding:
        """Return the session of this sandbox.

        Raises:
            NotBoundError: there is none yet.
        """
        if self._binding is None:
            raise NotBoundError
        return self._binding

    @property
    def session_id(self) -> str:
        """Return the session's id, empty until there is one."""
        return self._binding.session_id if self._binding else ""

    @property
    def binding_known(self) -> bool:
        """Say whether there is a session yet, and so commands may have run."""
        return self._binding is not None

    @property
    def ready(self) -> bool:
        """Say whether commands can run."""
        return not (self._starting or self.last_fault or self.ended.is_set())

    def started(self) -> None:
        """Note that there is a runner now."""
        self._starting = False
        self.control_seen()  # until now there was nobody to ask

    @contextmanager
    def binding_to(self, binding: Binding) -> Iterator[None]:
        """Give the sandbox its session once the block has ended well.

        That is tried once in its life: if the block fails, it never has one.

        Raises:
            AlreadyBoundError: it has one, the same or another, or failed to get one.
            RunnerFaultError: it is broken, or not even started.
            ShuttingDownError: it is ending.
        """
        self._refuse_unready()
        if self._taken:
            raise AlreadyBoundError
        self._taken = True
        yield
        self._refuse_unready()
        self._binding = binding
        self._bound.set()

    def bind(self, binding: Binding) -> None:
        """Give the sandbox its session now; raises as `binding_to`."""
        with self.binding_to(binding):
            pass

    async def bound(self) -> Binding:
        """Wait for the session of this sandbox."""
        await self._bound.wait()
        return self.binding

    @contextmanager
    def call(self) -> Iterator[Binding]:
        """Count one call of the session as activity while the block runs.

        Raises:
            NotBoundError: there is no session yet.
            RunnerFaultError: the sandbox is broken, or broke meanwhile.
            ShuttingDownError: the sandbox is ending, or ended meanwhile.
        """
        self._refuse_unready()
        binding = self.binding
        self.open_calls += 1
        self.last_activity = self._clock.now()
        try:
            yield binding
        except RunnerFaultError as error:
            if self.ended.is_set():
                raise ShuttingDownError from error
            raise
        finally:
            self.open_calls -= 1
            self.last_activity = self._clock.now()

    def control_seen(self) -> None:
        """Note that the WorkloadManager is there."""
        self.last_control = self._clock.monotonic()

    def note(self, reason: str) -> None:
        """Note what happened to the code, which the sandbox survives."""
        self._noted = reason or self._noted

    @property
    def shown_fault(self) -> str:
        """Why the sandbox is lost, or while it is not, what last happened in it."""
        return self.last_fault or self._noted

    def fail(self, reason: str) -> None:
        """Note a fault that no later call will survive; the first one counts."""
        self.last_fault = self.last_fault or reason

    def end(self, cause: str) -> None:
        """Begin the end of the sandbox; the first cause counts."""
        if not self.ended.is_set():
            self.ended_by = cause
            self.ended.set()

    def _refuse_unready(self) -> None:
        if self.ended.is_set():
            raise ShuttingDownError
        if self._starting:
            raise RunnerFaultError("the runner is still starting")
        if self.last_fault:
            raise RunnerFaultError
