"""`cubemesh demo`: untrusted code through a whole mesh, every proof shown."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubemesh._demo_mesh import demo_mesh
from cubemesh._demo_proofs import hops, refusals
from cubemesh._demo_rotation import rotation
from cubemesh._identity import Identity
from cubemesh._sandbox import AsyncSandbox
from cubemesh._values import CommandOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cubemesh._demo_mesh import DemoMesh
    from cubemesh._demo_proofs import Hop, Refusal
    from cubemesh._demo_rotation import Rotation

_SVID_TTL = "5s"
_STARTS = 3
COMMANDS = (
    "echo hello from $(hostname); id -un; pwd",
    "python3 -c 'print(6*7)'",
    "ls -a /; ls /proc | grep -c '^[0-9]'",
    "cat /etc/shadow",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the demo saw."""

    hops: list[Hop]
    first_output_ms: dict[str, float]
    refusals: list[Refusal]
    rotation: Rotation

    @property
    def ok(self) -> bool:
        """Say whether all of it held."""
        return (
            bool(self.hops and self.refusals)
            and all(hop.match for hop in self.hops)
            and all(refusal.held for refusal in self.refusals)
            and self.rotation.held
        )

    def as_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "ok": self.ok,
            "hops": [asdict(hop) | {"match": hop.match} for hop in self.hops],
            "first_output_ms": self.first_output_ms,
            "refusals": [asdict(one) | {"held": one.held} for one in self.refusals],
            "rotation": asdict(self.rotation) | {"held": self.rotation.held},
        }


async def demo(environ: Mapping[str, str], tell: Callable[[str], None]) -> Facts:
    """Run three meshes (mtls, jwt, and one whose identities live five seconds).

    *tell* hears what happens, in words. Nothing is left when it returns.

    Raises:
        ServiceError: a mesh does not start.
        LeftBehindError: one did not end cleanly.
        MeshError: a call failed that had to succeed.

    """
    with tempfile.TemporaryDirectory(prefix="cubemesh-demo-") as folder:
        async with AsyncExitStack() as meshes:
            # All before the first call: who has used gRPC must not fork.
            tell("starting three meshes: mtls, jwt, and one of short-lived identities")
            options = {
                "mtls": (),
                "jwt": ("--picod-auth-mode", "jwt"),
                "short": ("--svid-ttl", _SVID_TTL),
            }
            started = {
                name: await meshes.enter_async_context(
                    demo_mesh(Path(folder) / name, environ, *flags)
                )
                for name, flags in options.items()
            }
            facts = await _look(started, tell)
            tell("stopping it all")
    return facts


async def _look(meshes: Mapping[str, DemoMesh], tell: Callable[[str], None]) -> Facts:
    first = {
        mode: round(await _first_output(meshes[mode]), 1) for mode in ("mtls", "jwt")
    }
    mesh = meshes["mtls"]
    async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
        await _show(sandbox, tell)
        sandbox_id = await mesh.sandbox_of(sandbox.session_id)
        client = Identity.load(mesh.profile)
        seen = await hops(mesh, sandbox_id, client)
        refused = await refusals(mesh, sandbox_id)
    tell(f"changing identities of {_SVID_TTL} under calls and a stream")
    return Facts(seen, first, refused, await rotation(meshes["short"]))


async def _show(sandbox: AsyncSandbox, tell: Callable[[str], None]) -> None:
    for command in COMMANDS:
        tell(f"$ {command}")
        result = await sandbox.commands.run(command)
        for line in (result.stdout + result.stderr).splitlines():
            tell(f"  {line}")


async def _first_output(mesh: DemoMesh) -> float:
    """Return the milliseconds from create to the first output: the median of a few."""
    taken = []
    for _ in range(_STARTS):
        began = time.perf_counter()
        async with await AsyncSandbox.create(profile=mesh.profile) as sandbox:
            taken += [
                (time.perf_counter() - began) * 1000
                async for event in sandbox.commands.stream(["echo", "hello"])
                if isinstance(event, CommandOutput)
            ]
    return statistics.median(taken)
