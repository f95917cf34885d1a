"""``cubemesh bench``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import click

from cubemesh._errors import ConfigurationError


@click.command(
    "bench",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench_command(*, arguments: tuple[str, ...]) -> None:
    """Measure a mesh on this machine: from create to the first result, and more.

    `cubemesh bench --help` tells the rest. It is a program of its own, which this
    becomes: ours is to import no service.
    """
    if find_spec("benchmarks") is None:
        message = "the benchmark is not installed"
        raise ConfigurationError(message, hint="pip install cubemesh-bench")
    argv = [sys.executable, "-I", "-m", "benchmarks", *arguments]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell, and no other program
