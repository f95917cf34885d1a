"""Sandboxes as processes of this machine, each a PicoD in a session of its own."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc

from authority import AuthorityError
from serving import span
from tlsloader import SpiffeID
from workloadmanager import _ids
from workloadmanager._census import Registry, end_all
from workloadmanager._control import (
    Control,
    binding_to_wire,
    identity_to_wire,
    isolation_from,
    peer_pid,
    refused_contents,
)
from workloadmanager._engine import Sandbox
from workloadmanager._errors import (
    BindingError,
    BindingRefusedError,
    NoIdentityError,
    SandboxStartError,
)
from workloadmanager._launch import Launched, Outfit, launch
from workloadmanager._logs import Logs
from workloadmanager._picod import Place, Plan
from workloadmanager._process import Process
from workloadmanager._remove import remove_groups, remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from workloadmanager._engine import Activity, Binding
    from workloadmanager._forkserver import ForkServer
    from workloadmanager._identities import Handover, Identities
    from workloadmanager._process import Mark
    from workloadmanager._templates import Template
    from workloadmanager._uids import Uids
    from workloadmanager._values import Session

__all__ = ["LocalEngine"]

_START = 30.0  # seconds that a PicoD may take to be there
_BIND = 2.0  # and to take its session
_FILL = 5.0  # and to take one with files or secrets
_END = 2.0  # and to go by itself
_ADOPT = 3.0

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Box:
    """One sandbox that we hold."""

    place: Place
    process: Process | None = None
    control: Control | None = None
    attention: asyncio.Future[None] | None = None
    made: bool = False
    ending: bool = False  # by us, or told already


class LocalEngine:
    """Makes, finds and ends sandboxes on this machine; see `Engine`."""

    def __init__(
        self,
        plan: Plan,
        *,
        forks: ForkServer,
        identities: Identities,
        uids: Uids,
        registry: Registry,
    ) -> None:
        self._plan, self._forks = plan, forks
        self._identities, self._uids, self._registry = identities, uids, registry
        self._logs = Logs(plan.logs)
        self._boxes: dict[str, _Box] = {}
        self._died: Callable[[str, str], None] = lambda _sandbox, _reason: None

    def watch(self, died: Callable[[str, str], None]) -> None:
        """Call *died* (sandbox id, reason) when one ends by itself."""
        self._died = died

    def level(self, template: Template) -> str:
        """Return the template's level, or the one of those that name none."""
        return template.isolation or self._plan.isolation

    def reserve(self) -> str:
        """Name the next sandbox; with an identity by whoever gives it that."""
        return self._identities.reserve() if self._proven else _ids.sandbox_id()

    async def make(
        self, sandbox_id: str, template: Template, binding: Binding | None = None
    ) -> Sandbox:
        """Start a PicoD and give it its identity, and its session if it has one."""
        box = _Box(self._plan.place(sandbox_id))
        self._boxes[sandbox_id] = box
        try:
            async with asyncio.timeout(_START):
                return await self._make(box, template, binding)
        except (OSError, TimeoutError, grpc.aio.AioRpcError, EOFError) as error:
            log = self._logs.path(sandbox_id)
            raise SandboxStartError(f"{_text(error)}; its log: {log}") from error

    async def _make(
        self, box: _Box, template: Template, binding: Binding | None
    ) -> Sandbox:
        sandbox_id = box.place.sandbox_id
        with span("engine.identity"):
            given = await self._identity(sandbox_id)
        box.place = replace(box.place, uid=await self._uids.take())
        box.place.folder.mkdir(mode=0o700)
        with span("engine.start"):
            handed = _handed(given, binding)
            process, newborn = await self._launch(box, template, handed)
            try:
                said = await newborn.ready(process)
            finally:
                newborn.close()
        if process.ended.is_set():
            raise SandboxStartError("PicoD ended while it was made ready")
        box.made = True
        box.control = Control(box.place.control)
        self._attend(box, box.control)
        if given is not None:
            self._identities.keep(sandbox_id, given, box.control.renew)
        if binding is not None and binding.contents:
            await self.bind(sandbox_id, binding)
        return Sandbox(
            sandbox_id=sandbox_id,
            address=box.place.address,
            spiffe_id=str(self._identities.name(sandbox_id)),
            isolation=isolation_from(said),
            record=box.place.record(),
        )

    async def bind(self, sandbox_id: str, binding: Binding) -> None:
        """Give a sandbox its session over its control door."""
        box = self._boxes.get(sandbox_id)
        if box is None or box.control is None or box.ending:
            raise BindingError(f"{sandbox_id} is gone")
        try:
            with span("engine.bind"):
                await box.control.bind(binding, _FILL if binding.contents else _BIND)
        except grpc.aio.AioRpcError as error:
            if binding.contents and (reason := refused_contents(error)):
                raise BindingRefusedError(reason, error.details() or "") from error
            raise BindingError(_text(error)) from error

    @property
    def _proven(self) -> bool:
        """Whether sandboxes prove who they are by a certificate."""
        return self._plan.auth_mode == "mtls"

    async def _identity(self, sandbox_id: str) -> Handover | None:
        """Return what the sandbox is handed at its start."""
        if not self._proven:
            return None
        try:
            return await self._identities.issue(sandbox_id)
        except AuthorityError as error:
            raise NoIdentityError(f"{error.reason}: {error}") from error

    async def _launch(
        self, box: _Box, template: Template, handed: Mapping[str, bytes]
    ) -> Launched:
        """Start the process, and watch it."""
        plan, place = self._plan, box.place
        outfit = Outfit(
            flags=plan.flags(template),
            own=place.flags,
            environment=plan.environment(plan.scratch(place, template)),
            handed=handed,
            log=self._logs.path(place.sandbox_id),
        )
        launched = await launch(outfit, self._forks, python=plan.python)
        box.process = launched.process
        box.place = replace(place, mark=launched.process.mark)
        box.process.on_end(lambda: self._tell(box, "SANDBOX_UNREACHABLE"))
        return launched

    def _tell(self, box: _Box, reason: str) -> None:
        if box.made and not box.ending:
            box.ending = True
            self._died(box.place.sandbox_id, reason)

    def _attend(self, box: _Box, control: Control) -> None:
        """Have the fault of the sandbox told as soon as it has one."""

        async def attend() -> None:
            try:
                fault = (await control.unwell()).last_fault
            except grpc.aio.AioRpcError:  # it is ending, or we have no hold of it
                fault = "SANDBOX_UNREACHABLE"
            if fault:
                self._tell(box, fault)

        box.attention = asyncio.ensure_future(attend())

    async def destroy(self, sandbox_id: str, record: str) -> None:
        """Have PicoD end itself, then kill whatever is left, and remove its folder."""
        box = self._boxes.get(sandbox_id)
        if box is None:
            told = Place.read(sandbox_id, record) if record else None
            box = _Box(told or self._plan.place(sandbox_id).found())
        box.ending = True
        self._identities.drop(sandbox_id)
        # A user whom another WorkloadManager has by now is none of ours.
        uid = box.place.uid if self._uids.hold(box.place.uid) else None
        # Without one, descendants must be known before their parents are gone.
        relatives = await self._kin(box.place, uid) if uid is None else set()
        await self._shut_down(box)
        relatives |= await self._kin(box.place, uid)
        while relatives:
            await end_all(relatives)
            relatives = await self._kin(box.place, uid)
        await asyncio.to_thread(remove_groups, box.place.folder, sandbox_id)
        for folder in (box.place.folder, box.place.open_folder):
            await asyncio.to_thread(remove_tree, folder)
        if box.process is not None:
            box.process.close()
        self._uids.give(box.place.uid)
        self._logs.end(sandbox_id)
        self._boxes.pop(sandbox_id, None)

    async def _shut_down(self, box: _Box) -> None:
        await _leave_alone(box)
        if box.control is None:
            return
        with suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(_END):
                await box.control.shutdown()
                if box.process is not None:
                    await box.process.ended.wait()
        await box.control.aclose()
        box.control = None

    async def _kin(self, place: Place, uid: int | None) -> set[Mark]:
        return (await self._registry.census()).kin(place.mark, uid)

    async def adopt(self, session: Session) -> Activity | None:
        """Take over a PicoD that proves to be the one of *session*."""
        if not session.record:
            return None
        place = Place.read(session.sandbox_id, session.record)
        process = None if place.mark is None else Process.watch(place.mark)
        if process is None:
            return None
        control = Control(place.control)
        activity = await self._prove(place, control, session)
        if activity is None:
            process.close()
            await control.aclose()
            return None
        box = _Box(place, process, control, made=True)
        process.on_end(lambda: self._tell(box, "SANDBOX_UNREACHABLE"))
        self._boxes[session.sandbox_id] = box
        self._logs.begin(session.sandbox_id)
        self._attend(box, control)
        self._uids.hold(place.uid)
        if self._proven:
            identity = SpiffeID.parse(session.spiffe_id)
            self._identities.resume(session.sandbox_id, identity, control.renew)
        return activity

    async def _prove(
        self, place: Place, control: Control, session: Session
    ) -> Activity | None:
        """Return its activity if it is who we think it is, and well."""
        try:
            pid = await asyncio.to_thread(peer_pid, place.control)
            if place.mark is None or pid != place.mark.pid:
                raise ProcessLookupError(f"process {pid} is behind its socket")
            report = await control.report(_ADOPT)
            if (report.sandbox_id, report.session_id, report.ready) != (
                session.sandbox_id,
                session.session_id,
                True,
            ):
                raise ProcessLookupError(f"it says {report}")
        except (OSError, grpc.aio.AioRpcError) as error:
            _log.warning(
                "sandbox not adopted",
                extra={"sandbox_id": session.sandbox_id, "detail": _text(error)},
            )
            return None
        return report.activity

    async def activity(self, sandbox_id: str) -> Activity | None:
        """Ask PicoD whether it is in use."""
        box = self._boxes.get(sandbox_id)
        if box is None or box.control is None:
            return None
        try:
            return (await box.control.report(1.0)).activity
        except grpc.aio.AioRpcError:
            return None

    async def sweep(self, known: Collection[str]) -> None:
        """Destroy the sandboxes in our runtime folder that nobody knows."""
        names = await asyncio.to_thread(os.listdir, self._plan.runtime)
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                if _ids.is_sandbox_id(name) and name not in known:
                    _log.warning("unknown sandbox removed", extra={"sandbox_id": name})
                    tasks.create_task(self.destroy(name, ""))

    def forget(self, sandbox_id: str) -> None:
        """Remove its log."""
        self._logs.remove(sandbox_id)

    async def aclose(self) -> None:
        """Let go of all sandboxes; they live on."""
        for box in self._boxes.values():
            box.ending = True
            await _leave_alone(box)
            if box.process is not None:
                box.process.close()
            if box.control is not None:
                await box.control.aclose()
        self._uids.close()


def _handed(given: Handover | None, binding: Binding | None) -> dict[str, bytes]:
    """Return what a PicoD is handed at its start, by the flags that tell where."""
    handed = {}
    if given is not None:
        handed["--identity-fd"] = identity_to_wire(given).SerializeToString()
    if binding is not None and not binding.contents:  # those may be refused: by Bind
        handed["--binding-fd"] = binding_to_wire(binding).SerializeToString()
    return handed


async def _leave_alone(box: _Box) -> None:
    if box.attention is not None:
        box.attention.cancel()
        await asyncio.wait([box.attention])
        box.attention = None


def _text(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
