"""``cubemesh doctor``: this machine, the profile, and the way to the mesh."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from cubemesh._certificates import examine
from cubemesh._errors import CubeMeshError
from cubemesh._identity import Identity
from cubemesh._machine import Check, look, look_further
from cubemesh._options import json_option, profile_option
from cubemesh._profile import Profile, locate
from cubemesh._sandbox import AsyncSandbox
from cubemesh._terminal import print_json, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_ENVIRON = os.environ  # noqa: TID251 - a command is where the environment enters


@click.group("doctor", invoke_without_command=True)
@profile_option
@json_option
@click.pass_context
def doctor_command(
    context: click.Context, *, profile: str | None, as_json: bool
) -> None:
    """Look for what is wrong; exit status 0 if nothing is."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> int:
        checks = []
        async for check in _checks(profile):
            checks.append(check)
            if not as_json:
                _show(check)
        ok = all(check.ok for check in checks)
        if as_json:
            print_json({"ok": ok, "checks": [asdict(check) for check in checks]})
        return 0 if ok else 1

    run(work())


@doctor_command.command(
    "certificates",
    context_settings={"ignore_unknown_options": True},
    add_help_option=False,  # the process that is started knows its flags
)
@profile_option
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def certificates_command(
    context: click.Context, *, profile: str | None, flags: tuple[str, ...]
) -> None:
    """Explain an identity, and what a server makes of it."""
    above = context.parent.params if context.parent is not None else {}
    if above.get("as_json"):
        flags = ("--json", *flags)
    examine(profile or above.get("profile"), flags, _ENVIRON)


async def _checks(name: str | None) -> AsyncIterator[Check]:
    for check in (*look(), *look_further()):
        yield check
    try:
        path = locate(name)
        profile = Profile.load(path)
        yield Check("profile", ok=True, detail=f"{path} → {profile.address}")
        yield _identity(Identity.load(profile, wait=0))
    except CubeMeshError as error:
        yield Check("profile", ok=False, detail=str(error), hint=error.hint)
        return
    try:
        found = await AsyncSandbox.list(profile=profile)
        yield Check("mesh", ok=True, detail=f"answers; {len(found)} live sessions")
    except CubeMeshError as error:
        yield Check("mesh", ok=False, detail=str(error), hint=error.hint)


def _identity(identity: Identity) -> Check:
    validity = identity.validity
    if validity is None:
        return Check("identity", ok=False, detail="the certificate tells no dates")
    now = datetime.now(UTC)  # noqa: TID251 - what the Router will compare with
    hint = "is the mesh's authority running? the machine's clock right?"
    ok = validity.begin <= now <= validity.end
    detail = f"valid from {validity.begin:%F %T} until {validity.end:%F %T} UTC"
    return Check("identity", ok, detail, hint)


def _show(check: Check) -> None:
    click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
    if not check.ok and check.hint:
        click.echo(f"      hint: {check.hint}")
