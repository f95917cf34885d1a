"""Follow files in a process of its own: ``follower.py FOLDER [options]``; JSON lines.

Each generation and each refusal is a line; see `tests.tlsloader.followed` for more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tlsloader import FileSource, Paths

if TYPE_CHECKING:
    from tlsloader import Material

_FIELDS = ("reason", "detail", "generation", "leaf_sha256")


def _say(event: str, **fields: object) -> None:
    os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        told = vars(record)
        fields = {name: told[name] for name in _FIELDS if name in told}
        _say(record.getMessage(), **fields)


async def main(told: argparse.Namespace) -> None:
    """Follow until killed."""
    names = ("key.pem", "svid.pem", "bundle.pem")
    source = await FileSource.load(Paths(*(told.folder / name for name in names)))

    def fork(fresh: Material) -> None:
        if fresh.generation == told.fork_at and os.fork() == 0:
            _say("forked", leaf_sha256=source.current().leaf_sha256)
            os._exit(0)

    source.subscribe(fork)
    # only now: another user may not be able to read the programs of this one
    os.setuid(told.uid)
    await source.follow(poll=told.poll)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--poll", type=float, default=60.0)
    parser.add_argument("--fork-at", type=int, default=0)
    parser.add_argument("--uid", type=int, default=os.getuid())
    options = parser.parse_args()
    logging.getLogger("tlsloader").addHandler(_Lines())
    logging.getLogger("tlsloader").setLevel(logging.INFO)
    sys.exit(asyncio.run(main(options)))
