"""The one place in the project that starts background tasks and ends them."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from grpc_reflection.v1alpha import reflection

import tlsloader
from serving._faults import ListenError
from serving._health import Health
from serving._tracing import call_spans
from tlsloader.grpc import SERVER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

__all__ = ["Door", "Hosted", "new_server", "serve", "stop_on_signals"]

_log = logging.getLogger(__name__)


class Door(Protocol):
    """What stands in front of a gRPC server: `tlsloader`'s acceptors do."""

    @property
    def backend(self) -> str:
        """The ``unix:/…`` address the gRPC server has to listen on."""

    async def start(self, listen: str) -> str:
        """Accept on *listen*; return the real address."""

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109
        """Stop listening, send the peers away, wait for them to go."""

    async def aclose(self) -> None:
        """Cut what is left and free everything."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """A server, where it is reached, and the door before it (``None``: plain)."""

    server: grpc.aio.Server
    listen: str
    acceptor: Door | None = None


def new_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    *,
    health: Health | None = None,
    reflection_of: Sequence[str] = (),
    options: Sequence[tuple[str, int]] = SERVER_OPTIONS,
    max_concurrent_calls: int | None = None,
) -> grpc.aio.Server:
    """Return a server with the mesh's options and, if given, its *health*.

    Within `tracing` each call gets its span, outside of all else.

    *interceptors*: outermost first. *reflection_of*: full service names to tell to
    everybody who asks; off (empty) outside development. *options*: the Router, which
    adds metadata, gives ``tlsloader.grpc.FRONT_SERVER_OPTIONS``.
    """
    server = grpc.aio.server(
        interceptors=[*call_spans(), *interceptors],
        options=list(options),
        maximum_concurrent_rpcs=max_concurrent_calls,
    )
    if health is not None:
        health.add_to(server)
    if reflection_of:
        names = (*reflection_of, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    return server


async def serve(
    *hosted: Hosted,
    jobs: Iterable[Coroutine[Any, Any, Any]] = (),
    stop: asyncio.Event,
    health: Health | None = None,
    grace: float = 20.0,
    ready: Callable[[Sequence[str]], None] = lambda _: None,
) -> None:
    """Serve all of *hosted*, and run *jobs*, until *stop* is set or a job fails.

    *ready* is called once with the real addresses, in the order of *hosted*.
    Order of the end: not ready; doors send their peers away (GOAWAY) and wait;
    servers stop; what is left after *grace* seconds is cancelled; then the jobs
    are. Being cancelled itself (a second signal) cuts the grace short.

    Raises:
        ListenError: an address cannot be bound.
        Exception: the failure of a job, as it was; an ExceptionGroup if several.
    """
    house = _House(hosted, health or Health(), stop, grace)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(house.watched(job)) for job in jobs]
            try:
                ready(await house.open())
                await stop.wait()
                await house.drain()
            except Exception as error:  # noqa: BLE001 - raised below, ungrouped
                house.failures.append(error)
            finally:
                await house.close()
                for task in running:
                    task.cancel()
    except asyncio.CancelledError:
        house.raise_failures()
        raise
    house.raise_failures()


class _House:
    def __init__(
        self,
        hosted: Sequence[Hosted],
        health: Health,
        stop: asyncio.Event,
        grace: float,
    ) -> None:
        self._hosted, self._health, self._stop = hosted, health, stop
        self._grace = grace
        self.failures: list[Exception] = []

    async def watched(self, job: Coroutine[Any, Any, Any]) -> None:
        """Run *job*; its failure ends the service instead of its siblings."""
        try:
            await job
        except Exception as error:  # noqa: BLE001 - kept and raised at the end
            _log.error("a job failed; the service ends", exc_info=error)
            self.failures.append(error)
            self._stop.set()

    async def open(self) -> Sequence[str]:
        """Open the doors, servers first: a door's peers must find one behind it."""
        addresses = []
        for each in self._hosted:
            behind = each.acceptor.backend if each.acceptor else each.listen
            bound = _bind(each.server, behind)
            await each.server.start()
            addresses.append(await _accept(each, bound))
        self._health.start()
        return addresses

    async def drain(self) -> None:
        """Let what runs come to its end, for *grace* seconds altogether."""
        self._health.stop()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._grace
        doors = [each.acceptor for each in self._hosted if each.acceptor]
        await self._all(door.drain(self._grace) for door in doors)
        left = max(0.0, end - loop.time())
        await self._all(each.server.stop(left) for each in self._hosted)

    async def close(self) -> None:
        """End whatever is still there, at once."""
        self._health.stop()
        await self._all(each.server.stop(0) for each in self._hosted)
        await self._all(e.acceptor.aclose() for e in self._hosted if e.acceptor)

    async def _all(self, ends: Iterable[Coroutine[Any, Any, Any]]) -> None:
        for result in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(result, Exception):
                _log.error("a part did not stop cleanly", exc_info=result)
                self.failures.append(result)

    def raise_failures(self) -> None:
        if len(self.failures) == 1:
            raise self.failures[0]
        if self.failures:
            raise ExceptionGroup("several parts of the service failed", self.failures)


def _bind(server: grpc.aio.Server, address: str) -> str:
    """Bind *server* to *address* and return the real one."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(address) from error
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


async def _accept(hosted: Hosted, bound: str) -> str:
    if hosted.acceptor is None:
        return bound
    try:
        return await hosted.acceptor.start(hosted.listen)
    except (OSError, tlsloader.ListenError) as error:
        raise ListenError(hosted.listen, error) from error


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[Sequence[signal.Signals]]:
    """Set *stop* on SIGTERM or SIGINT while the block runs.

    A second signal cancels the task that entered the block: `serve` then ends at
    once. Yields the signals received so far, first one first.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    received: list[signal.Signals] = []

    def receive(number: signal.Signals) -> None:
        if received and task is not None:
            task.cancel()
        received.append(number)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, receive, number)
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
