"""``cubemesh cp`` and ``cubemesh rm``."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import click

from cubemesh._options import json_option, profile_option
from cubemesh._sandbox import AsyncSandbox
from cubemesh._terminal import print_json, run


class _Place(NamedTuple):
    """Where a file is: ``session`` is empty for this machine."""

    session: str
    path: str

    @classmethod
    def parse(cls, text: str) -> _Place:
        session, colon, path = text.partition(":")
        if colon and session.startswith("ses-"):
            return cls(session, path)
        return cls("", text)


@click.command("cp")
@click.option("--parents", "-p", is_flag=True, help="Make missing directories there.")
@profile_option
@json_option
@click.argument("source")
@click.argument("target")
def cp_command(
    *, parents: bool, profile: str | None, as_json: bool, source: str, target: str
) -> None:
    """Copy one file into or out of a sandbox.

    One of SOURCE and TARGET is SESSION:PATH, the other a path of this machine, or -
    for standard output. A target that ends in a slash, or is a folder here, keeps the
    name.
    """
    here, there = _Place.parse(source), _Place.parse(target)
    if bool(here.session) == bool(there.session):
        message = "one of SOURCE and TARGET must be SESSION:PATH, the other a path here"
        raise click.UsageError(message)
    if here.session:
        run(_down(here, there.path, profile, as_json=as_json))
    run(_up(here.path, there, profile, parents=parents, as_json=as_json))


@click.command("rm")
@click.option("--recursive", "-r", is_flag=True, help="A directory with all in it.")
@profile_option
@click.argument("places", nargs=-1, required=True, metavar="SESSION:PATH…")
def rm_command(
    *, recursive: bool, profile: str | None, places: tuple[str, ...]
) -> None:
    """Remove files of a sandbox; to end a session: cubemesh kill."""
    parsed = [_Place.parse(place) for place in places]
    if not all(place.session for place in parsed):
        message = "each must be SESSION:PATH; nothing of this machine is removed"
        raise click.UsageError(message)

    async def work() -> None:
        for session, path in parsed:
            async with await AsyncSandbox.connect(session, profile=profile) as sandbox:
                await sandbox.files.remove(path, recursive=recursive)

    run(work())


async def _up(
    source: str, target: _Place, profile: str | None, *, parents: bool, as_json: bool
) -> None:
    path = target.path
    if not path or path.endswith("/"):
        path += Path(source).name
    async with await AsyncSandbox.connect(target.session, profile=profile) as sandbox:
        info = await sandbox.files.upload(source, path, make_parents=parents)
    if as_json:
        print_json({"path": info.path, "size": info.size})


async def _down(
    source: _Place, target: str, profile: str | None, *, as_json: bool
) -> None:
    async with await AsyncSandbox.connect(source.session, profile=profile) as sandbox:
        if target == "-":
            pieces = sandbox.files.stream(source.path)
            async with aclosing(pieces):
                async for piece in pieces:
                    sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        path = _kept_name(Path(target), source.path, slash=target.endswith("/"))
        size = await sandbox.files.download(source.path, path)
    if as_json:
        print_json({"path": str(path), "size": size})


def _kept_name(target: Path, source: str, *, slash: bool) -> Path:
    into_folder = slash or target.is_dir()
    return target / PurePosixPath(source).name if into_folder else target
