"""The processes of a mesh on one machine, in the order in which they are begun."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cubemesh._options import span
from cubemesh._plan import SERVICES
from cubemesh._service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping

    from cubemesh._plan import Plan, Realm


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the mesh: how it is begun, and how it is ended.

    It gets *ending*, and so many seconds to go; once for each of *graces*.
    """

    service: Service
    begin: Callable[[], Coroutine[Any, Any, dict[str, Any]]]
    ending: signal.Signals = signal.SIGTERM
    graces: tuple[float, ...] = (5.0,)


def parts(
    plan: Plan, environ: Mapping[str, str], listen: Callable[[], str]
) -> Iterator[Part]:
    """Yield the parts of *plan*; *listen* tells the Router's address at each start."""
    if plan.realm is not None:
        yield from _nodes(plan, plan.realm, environ)
    for name in SERVICES:
        service = Service(
            name,
            partial(_command, plan, name, listen),
            plan.state.log(name),
            environ,
        )
        match name:
            case "router":  # a second signal has it cut off the calls under way
                yield Part(service, service.start, graces=(5.0, 5.0))
            case "workloadmanager":  # it takes SIGINT as: end all sandboxes first
                yield Part(service, service.start, signal.SIGINT, (30.0,))
            case _:
                yield Part(service, service.start)


def _command(plan: Plan, name: str, listen: Callable[[], str]) -> list[str]:
    return plan.command(name, listen())


def _nodes(plan: Plan, realm: Realm, environ: Mapping[str, str]) -> Iterator[Part]:
    """Yield the servers, then the agents, which ask them."""
    log, seconds = plan.state.log, span(plan.svid_ttl)
    both = (
        ("spire", realm.services, realm.workloads(plan.user)),
        ("sandbox-spire", realm.sandboxes, realm.delegates),
    )
    for prefix, node, _ in both:
        name = f"{prefix}-server"
        server = node.server(name, log(name), environ)
        yield Part(server, server.start)
    for prefix, node, entries in both:
        name = f"{prefix}-agent"
        agent = node.agent(name, log(name), environ)
        yield Part(agent, partial(node.start_agent, agent, entries, seconds))
