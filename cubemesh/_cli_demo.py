"""``cubemesh demo``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from cubemesh._demo import demo
from cubemesh._demo_mesh import LeftBehindError
from cubemesh._machine import require
from cubemesh._options import json_option
from cubemesh._terminal import print_json, run, say_error

if TYPE_CHECKING:
    from cubemesh._demo import Facts
    from cubemesh._demo_proofs import Hop, Refusal
    from cubemesh._demo_rotation import Rotation

_ENVIRON = os.environ  # noqa: TID251 - a command is where the environment enters
_SHORT = 16


@click.command("demo")
@json_option
def demo_command(*, as_json: bool) -> None:
    """Run untrusted code through a mesh and show every proof.

    Starts meshes of its own on free ports and leaves nothing behind. Exit status 0
    only if every proof held.
    """
    require("bwrap")

    async def work() -> int:
        try:
            facts = await demo(_ENVIRON, lambda _: None if as_json else click.echo(_))
        except LeftBehindError as error:
            say_error(str(error))
            return 1
        if as_json:
            print_json(facts.as_json())
        else:
            _show(facts)
        return 0 if facts.ok else 1

    run(work())


def _show(facts: Facts) -> None:
    click.echo("\neach hop: the leaf that was presented, and the one that was seen")
    for hop in facts.hops:
        _show_hop(hop)
    click.echo("\nfrom create to first output")
    for mode, milliseconds in facts.first_output_ms.items():
        click.echo(f"  {mode:4}  {milliseconds:.0f} ms")
    click.echo("\na valid certificate of the wrong one, at each door")
    for refusal in facts.refusals:
        _show_refusal(refusal)
    click.echo("\nidentities changed under load")
    _show_rotation(facts.rotation)
    click.echo("\nall of it held" if facts.ok else "\nNOT all of it held")


def _show_hop(hop: Hop) -> None:
    click.echo(f"  {_mark(hop.match)} {hop.source} → {hop.target}")
    for name, presented, seen in (
        (hop.source_id, hop.source_presented, hop.source_seen),
        (hop.target_id, hop.target_presented, hop.target_seen),
    ):
        click.echo(f"      {name}")
        click.echo(f"        presented {presented[:_SHORT]}…  seen {seen[:_SHORT]}…")


def _show_refusal(refusal: Refusal) -> None:
    click.echo(f"  {_mark(refusal.held)} {refusal.door}: {refusal.presented}")
    click.echo(f"      {refusal.reason}: {refusal.detail}")
    click.echo(
        f"      got {refusal.answered} bytes of HTTP/2; "
        f"who may pass got {refusal.rightful_answered}"
    )


def _show_rotation(seen: Rotation) -> None:
    generations = ", ".join(f"{name} {n}" for name, n in seen.generations.items())
    click.echo(f"  {_mark(seen.held)} generations: {generations}")
    click.echo(f"      {seen.calls} calls, {len(seen.failed)} failed")
    click.echo(
        f"      one stream of {seen.stream_seconds:.1f} s outlived "
        f"{seen.stream_outlived} of each, with {seen.gaps} gaps"
    )
    for line in seen.failed[:5]:
        click.echo(f"      {line}")


def _mark(held: bool) -> str:  # noqa: FBT001 - a mark is what it is
    return "ok  " if held else "FAIL"
