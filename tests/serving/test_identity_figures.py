"""What Prometheus is told of an identity, before and after things go wrong."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from serving import Health, IdentityFigures, Metrics, start_metrics
from tests.forge import Forge
from tests.serving.test_metrics import _get
from tests.tlsloader.followed import ROUTER, in_place, polled
from tlsloader import BundlePaths

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "operate-identities.md"


class Figures:
    """The figures of one source, read as a scrape does."""

    def __init__(self, source: object) -> None:
        self.health, self.metrics = Health(), Metrics()
        self.health.start()
        figures = IdentityFigures(source, self.health)  # type: ignore[arg-type]
        self.metrics.registry.register(figures)

    def __getitem__(self, name: str) -> float | None:
        return self.of(name)

    def of(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"cubemesh_{name}", labels)


async def test_tells_how_the_identity_is(tmp_path: Path) -> None:
    """Generation, age, last success, time left, and whether it can be used."""
    forge = Forge()
    paths = forge.write(tmp_path, ROUTER, life=600)
    async with polled(paths, forge) as followed:
        figures = Figures(followed.source)
        await followed.look()
        assert figures["identity_generation"] == 1
        assert figures["identity_age_seconds"] == 5
        left = figures["identity_expires_in_seconds"]
        assert left is not None
        assert 594 <= left <= 595
        success = "identity_last_success_timestamp_seconds"
        assert figures[success] == forge.now.timestamp() + 5
        assert (figures["identity_usable"], figures["ready"]) == (1, 1)
        assert figures.of("identity_info", source="files") == 1
        in_place(paths.key, b"")
        await followed.look()
        in_place(paths.key, b"junk")
        await followed.look()
        assert figures.of("identity_failures_total", reason="empty_file") == 1
        assert figures.of("identity_failures_total", reason="not_pem") == 1
        assert figures[success] == forge.now.timestamp() + 5
        followed.hand.jump(600)
        figures.health.hold("our identity is over")
        assert (figures["identity_usable"], figures["ready"]) == (0, 0)
        assert figures["identity_expires_in_seconds"] < 0  # type: ignore[operator]


async def test_tells_whom_it_trusts_and_by_what(tmp_path: Path) -> None:
    """By the fingerprint it can be seen that all services have a new root."""
    forge, other, folder = Forge(), Forge("other.test"), tmp_path / "bundles"
    folder.mkdir()
    paths = forge.write(tmp_path / "own", ROUTER)
    bundles = BundlePaths(folder=folder)
    async with polled(paths, forge, bundles) as followed:
        figures = Figures(followed.source)

        def trusted(each: Forge) -> float | None:
            domain, digest = each.trust_domain, each.trust.fingerprint[:16]
            name = "trust_bundle_info"
            return figures.of(name, trust_domain=domain, fingerprint=digest)

        assert (trusted(forge), trusted(other)) == (1, None)
        (folder / "other.test.pem").write_bytes(other.bundle)
        await followed.look()
        assert (trusted(forge), trusted(other)) == (1, 1)
        (folder / "other.test.pem").unlink()
        await followed.look()
        assert (trusted(forge), trusted(other)) == (1, None)


async def test_a_scrape_shows_no_path_and_no_identity_of_a_caller(
    tmp_path: Path,
) -> None:
    """Files are named in the log, where nobody scrapes them."""
    forge = Forge()
    paths = forge.write(tmp_path, ROUTER)
    async with polled(paths, forge) as followed:
        in_place(paths.key, b"junk")
        await followed.look()
        metrics = Figures(followed.source).metrics
        with start_metrics("127.0.0.1:0", metrics) as address:
            text = await asyncio.to_thread(_get, f"http://{address}/metrics")
    assert "cubemesh_identity_failures_total" in text
    assert str(tmp_path) not in text
    assert "spiffe://" not in text


async def test_the_guide_names_what_there_is(tmp_path: Path) -> None:
    """Who copies an alert from the guide watches a figure that exists, and all do."""
    forge = Forge()
    paths = forge.write(tmp_path, ROUTER)
    async with polled(paths, forge) as followed:
        in_place(paths.key, b"junk")
        await followed.look()
        figures = IdentityFigures(followed.source, Health())
        names = {each.name for one in figures.collect() for each in one.samples}
    named = set(
        re.findall(r"cubemesh_[a-z_]+", await asyncio.to_thread(GUIDE.read_text))
    )
    assert named == names
