"""``cubemesh version``."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from cubemesh._options import json_option
from cubemesh._terminal import print_json


@click.command("version")
@json_option
def version_command(*, as_json: bool) -> None:
    """Tell the version of the client, the services and what they stand on."""
    found = {
        name: _version(name) for name in ("cubemesh", "cubemesh-services", "grpcio")
    }
    found["python"] = platform.python_version()
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(f"{name} {value or 'not installed'}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
