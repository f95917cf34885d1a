"""Serve with an identity of our own: ``node.py ENDPOINT ALLOWED…``; JSON on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from tests.spire.doors import serving
from tlsloader.workload import WorkloadAPISource

if TYPE_CHECKING:
    from tlsloader import Material


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _tell(material: Material) -> None:
    _say(event="rotated", generation=material.generation)


async def main(endpoint: str, *allowed: str) -> None:
    """Serve until killed."""
    source = await WorkloadAPISource.load(endpoint)
    source.subscribe(_tell)
    async with serving(source, *allowed) as (_, address):
        own = str(source.current().identity)
        _say(event="listening", address=address, identity=own)
        await source.follow()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
