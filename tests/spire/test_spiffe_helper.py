"""Files as the real spiffe-helper writes them: in place, and torn for moments."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fakes import until
from tests.spire.followed import followed
from tests.spire.programs import started
from tests.spire.spire import BINARIES, as_group, need
from tlsloader import FileSource, Material, Paths

if TYPE_CHECKING:
    from pathlib import Path

    from tests.spire.spire import Spire

pytestmark = [pytest.mark.spire, pytest.mark.slow]

IDENTITY = "spiffe://cluster.local/ns/agentcube-system/sa/by-files"
GROUP = 4102
ROTATIONS = 8
CONFIG = """
agent_address = "{agent}"
cert_dir = "{folder}"
svid_file_name = "svid.pem"
svid_key_file_name = "key.pem"
svid_bundle_file_name = "bundle.pem"
cert_file_mode = 0644
key_file_mode = 0600
omit_expired = true
daemon_mode = true
"""


async def test_survives_torn_writes(spire: Spire, tmp_path: Path) -> None:
    """Of many rotations no generation is torn, and the last one is in use."""
    need("spiffe-helper")
    config, folder = tmp_path / "helper.conf", tmp_path / "certs"
    folder.mkdir()
    agent = spire.endpoint.removeprefix("unix://")
    config.write_text(CONFIG.format(agent=agent, folder=folder))
    argv = (str(BINARIES / "spiffe-helper"), "-config", str(config))
    paths = Paths(*(folder / name for name in ("key.pem", "svid.pem", "bundle.pem")))
    async with (
        spire.entry(IDENTITY, group=GROUP, ttl=5),
        started(*as_group(GROUP, *argv)),
        followed(await FileSource.load(paths)) as files,
    ):
        generations = [files.source.current()]
        generations += [await files.next() for _ in range(ROTATIONS)]
        for each in generations:
            judge(each)
        assert len({each.leaf_sha256 for each in generations}) == ROTATIONS + 1
        async with asyncio.timeout(10):
            await until(lambda: files.source.current().chain == written(paths))


def judge(material: Material) -> None:
    """Check every rule about own credentials once more."""
    own = material.identity
    assert str(own) == IDENTITY
    again = Material.parse(
        key=material.key,
        chain=material.chain,
        bundle=material.bundles[own.trust_domain].pem,
        now=material.not_before,
    )
    assert again == material


def written(paths: Paths) -> bytes:
    return paths.chain.read_bytes()
