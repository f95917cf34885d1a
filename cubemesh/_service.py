"""One service as a process: start it, read that it is ready, restart it, stop it."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cubemesh._errors import CubeMeshError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_READY_WITHIN = 60.0  # seconds
_STEADY = 30.0  # after so many seconds a start counts as good
_SLOWEST = 5.0  # seconds between two attempts
_ATTEMPTS = 10
_LOG_LIMIT = 16 * 1024 * 1024
_TAIL = 64 * 1024
_PROBED_EACH = 0.05  # seconds


class ServiceError(CubeMeshError):
    """A service does not start or does not stay; ``status`` is what it exited with."""

    def __init__(self, message: str, *, hint: str = "", status: int = 125) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Service:
    """One supervised process.

    It says itself when it is ready, by a line of JSON on its standard output; with a
    *probe* it is ready once that command ends with 0.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        log: Path,
        environ: Mapping[str, str],
        *,
        probe: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._environ = environ
        self._probe = probe
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process number while it runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    @property
    def status(self) -> int | None:
        """How it ended; below zero: by that signal."""
        return self._process.returncode if self._process else None

    async def start(self) -> dict[str, Any]:
        """Start it and return its ready line.

        Raises:
            ServiceError: it ended, or said nothing in time.

        """
        with self._open_log() as log:
            self._log_start = log.tell()
            process = await self._spawn(
                self._command(),
                stdout=log if self._probe else asyncio.subprocess.PIPE,
                stderr=log,
            )
        self._process = process
        ready = self._probed if self._probe else self._ready
        try:
            async with asyncio.timeout(_READY_WITHIN):
                return await ready(process)
        except TimeoutError:
            await self.stop(signal.SIGKILL, 0)
            message = f"{self.name} did not become ready in {_READY_WITHIN:g} s"
            raise ServiceError(message, hint=f"see {self._log}") from None

    async def keep(self, restarted: Callable[[Service, int], None]) -> None:
        """Start it again whenever it ends, until cancelled.

        Raises:
            ServiceError: it keeps ending at once.

        """
        failures, began = 0, time.monotonic()
        while True:
            status = await self._ended()
            failures = 0 if time.monotonic() - began > _STEADY else failures + 1
            if failures > _ATTEMPTS:
                message = f"{self.name} ended {failures} times in a row"
                raise ServiceError(message, hint=self._why(status).hint)
            restarted(self, status)
            self.restarts += 1
            await _pause(min(_SLOWEST, 0.1 * 2**failures))
            began = time.monotonic()
            with suppress(ServiceError):  # counted above, when its end is seen
                await self.start()

    async def stop(self, how: signal.Signals, *graces: float) -> None:
        """Send *how*, once for each of *graces* (seconds); then kill it."""
        process = self._process
        if process is None:
            return
        for grace in graces:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.send_signal(how)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await process.wait()
                    return
        self.kill()
        await process.wait()

    def kill(self) -> None:
        """End it now."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _ready(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        assert process.stdout is not None  # noqa: S101 - we asked for the pipe
        async for line in process.stdout:
            with suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("ready") is True:
                    return said
        raise self._why(await process.wait())

    async def _probed(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        while process.returncode is None:
            nowhere = asyncio.subprocess.DEVNULL
            probe = await self._spawn(self._probe, stdout=nowhere, stderr=nowhere)
            try:
                if await probe.wait() == 0:
                    return {}
            finally:
                with suppress(ProcessLookupError):
                    probe.kill()
            await _pause(_PROBED_EACH)
        raise self._why(await process.wait())

    async def _spawn(
        self, argv: Sequence[str], *, stdout: Any, stderr: Any
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=dict(self._environ),
            cwd="/",
            process_group=0,  # Ctrl-C is for us alone: we stop them in order
            preexec_fn=_die_with(os.getpid()),
        )

    async def _ended(self) -> int:
        process = self._process
        assert process is not None  # noqa: S101 - it was started before
        while process.stdout is not None and await process.stdout.read(_TAIL):
            pass  # nobody needs it, but a full pipe would stop the service
        return await process.wait()

    def _why(self, status: int) -> ServiceError:
        """Return the last words of a process that ended."""
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, self._log.stat().st_size - _TAIL))
            lines = log.read().decode(errors="replace").splitlines()
        errors = [line[7:] for line in lines if line.startswith("error: ")]
        errors = errors or _last_error(lines)
        hints = [line[6:] for line in lines if line.startswith("hint: ")]
        how = f"signal {-status}" if status < 0 else f"status {status}"
        said = "; ".join(errors) or f"it ended with {how}"
        hint = "; ".join(hints) or f"see {self._log}"
        return ServiceError(f"{self.name}: {said}", hint=hint, status=status)

    def _open_log(self) -> Any:
        with suppress(FileNotFoundError):
            if self._log.stat().st_size > _LOG_LIMIT:
                self._log.replace(self._log.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        log = os.fdopen(os.open(self._log, flags, 0o600), "ab", buffering=0)
        log.seek(0, os.SEEK_END)
        return log


def _last_error(lines: Sequence[str]) -> list[str]:
    """Return the last error of a log of JSON lines, as SPIRE writes them."""
    for line in reversed(lines):
        with suppress(ValueError, AttributeError):
            record = json.loads(line)
            if record.get("level") in {"error", "fatal"} and "msg" in record:
                return [": ".join(filter(None, (record["msg"], record.get("error"))))]
    return []


def _die_with(parent: int) -> Callable[[], None]:
    """Return what ties a child to us: should we be killed, it is told to end."""

    def tie() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:
            os._exit(1)

    return tie


async def _pause(seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()
