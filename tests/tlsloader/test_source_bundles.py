"""Trust domains that come, go and break: each by its own bundle, and at run time."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.forge import Forge
from tests.tlsloader.followed import (
    ROUTER,
    Followed,
    following,
    in_place,
    polled,
)
from tests.tlsloader.transport import Hosted, hosted, way
from tlsloader import BundlePaths, FileSource, MaterialError, Paths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PICOD = "spiffe://cluster.local/ns/agentcube-system/sa/picod"
CALLER = "spiffe://other.test/caller"


@pytest.fixture
def other(forge: Forge) -> Forge:
    return Forge("other.test", forge.now)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder for bundles."""
    made = tmp_path / "bundles"
    made.mkdir()
    return made


def put(folder: Path, forge: Forge) -> Path:
    """Write the bundle of *forge* by one rename."""
    file, new = folder / f"{forge.trust_domain}.pem", folder / ".new"
    new.write_bytes(forge.bundle)
    new.rename(file)
    return file


def domains(followed: Followed) -> set[str]:
    return set(followed.source.current().bundles)


# Named one by one


async def test_a_withdrawn_bundle_is_dropped(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """Deleting another domain's bundle ends the trust in it; writing it begins it."""
    file, paths = put(folder, other), forge.write(tmp_path / "own", ROUTER)
    async with following(paths, {"other.test": file}) as followed:
        assert "other.test" in domains(followed)
        file.unlink()
        assert "other.test" not in (await followed.next()).bundles
        file.write_bytes(other.bundle)
        assert "other.test" in (await followed.next()).bundles


async def test_a_broken_bundle_is_not_a_withdrawn_one(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """A torn foreign bundle keeps the last good one, as with our own."""
    file, paths = put(folder, other), forge.write(tmp_path / "own", ROUTER)
    async with following(paths, {"other.test": file}) as followed:
        in_place(file, b"")
        assert str(file) in await followed.keeps("empty_file", "bundle")
        assert followed.source.current().bundles["other.test"] == other.trust


async def test_misses_a_bundle_at_the_start(forge: Forge, tmp_path: Path) -> None:
    """A bundle that a flag names has to be there once."""
    gone = tmp_path / "other.pem"
    paths = forge.write(tmp_path / "own", ROUTER)
    with pytest.raises(MaterialError, match=re.escape(str(gone))):
        await FileSource.load(paths, BundlePaths({"other.test": gone}), wait=0)


async def test_a_merged_bundle_is_refused_with_a_hint(
    forge: Forge, folder: Path, tmp_path: Path
) -> None:
    """spiffe-helper can put all domains into one file; each could then be the other."""
    other = Forge("other.test", forge.now)
    root = other.signer(uris=("spiffe://other.test",))
    paths = forge.write(tmp_path / "own", ROUTER)
    async with polled(paths, forge, BundlePaths(folder=folder)) as followed:
        in_place(paths.bundle, forge.bundle + root.pem)
        await followed.look()
        told = await followed.keeps("bundle_signer_other_domain")
        assert "--trust-bundle" in told
        in_place(paths.bundle, forge.bundle)
        in_place(folder / "third.test.pem", root.pem)
        await followed.look()
        await followed.keeps("bundle_signer_other_domain", "bundle")
        assert domains(followed) == {"cluster.local"}


# In a folder


async def test_a_file_that_is_added_is_a_domain_that_is_trusted(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """So it is by one rename, and no longer once the file is gone."""
    paths = forge.write(tmp_path / "own", ROUTER)
    async with following(paths, BundlePaths(folder=folder)) as followed:
        assert domains(followed) == {"cluster.local"}
        for _ in range(2):
            file = put(folder, other)
            bundles = (await followed.next()).bundles
            assert bundles == {"cluster.local": forge.trust, "other.test": other.trust}
            file.unlink()
            assert (await followed.next()).bundles == {"cluster.local": forge.trust}
    assert followed.source.failures == 0


async def test_a_domain_may_change_its_roots(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """A new bundle of one domain replaces that one whole, and no other."""
    third, newer = Forge("third.test", forge.now), Forge("other.test", forge.now)
    put(folder, other)
    put(folder, third)
    paths = forge.write(tmp_path / "own", ROUTER)
    async with following(paths, BundlePaths(folder=folder)) as followed:
        put(folder, newer)
        bundles = (await followed.next()).bundles
    assert (bundles["other.test"], bundles["third.test"]) == (newer.trust, third.trust)


async def test_a_broken_file_harms_no_other_domain(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """Its own last good one stays; others and our own identity go on."""
    third = Forge("third.test", forge.now)
    file, paths = put(folder, other), forge.write(tmp_path / "own", ROUTER)
    async with polled(paths, forge, BundlePaths(folder=folder)) as followed:
        in_place(file, other.bundle[:100])
        await followed.look()
        assert str(file) in await followed.keeps("half_written", "bundle")
        confirmed = followed.source.confirmed
        svid = forge.svid(ROUTER)
        forge.put(tmp_path / "own", svid)
        put(folder, third)
        await followed.look()
        await followed.shows(svid)
        assert domains(followed) == {"cluster.local", "other.test", "third.test"}
        assert followed.source.current().bundles["other.test"] == other.trust
        in_place(tmp_path / "own" / "key.pem", b"junk")
        await followed.look()
        await followed.keeps("not_pem")
        forge.put(tmp_path / "own", svid)
        await followed.look()
        refusals = followed.source.refusals
        assert refusals == {"half_written": 1, "not_pem": 1}  # each told once
        assert followed.source.confirmed == confirmed
        file.unlink()
        await followed.look()
        assert domains(followed) == {"cluster.local", "third.test"}
        assert followed.source.confirmed > confirmed


async def test_what_was_never_good_is_not_trusted(
    forge: Forge, folder: Path, tmp_path: Path
) -> None:
    """A domain whose first file is torn is no domain yet."""
    paths, file = forge.write(tmp_path / "own", ROUTER), folder / "other.test.pem"
    other = Forge("other.test", forge.now)
    async with polled(paths, forge, BundlePaths(folder=folder)) as followed:
        in_place(file, other.bundle[:100])
        await followed.look()
        await followed.keeps("half_written", "bundle")
        assert domains(followed) == {"cluster.local"}
        in_place(file, other.bundle)
        await followed.look()
        assert domains(followed) == {"cluster.local", "other.test"}


@pytest.mark.parametrize(
    "name",
    [
        "Other.test.pem",
        "other test.pem",
        "other.test",
        "other.test.crt",
        "other.test.pem.bak",
        "other:8443.pem",
        "README",
    ],
)
async def test_a_name_of_no_trust_domain_is_refused(
    forge: Forge, folder: Path, tmp_path: Path, name: str
) -> None:
    """Nobody has to wonder why a file has no effect: the log says how to name it."""
    paths = forge.write(tmp_path / "own", ROUTER)
    (folder / name).write_bytes(Forge("other.test").bundle)
    with pytest.raises(MaterialError, match=r"name it <trust domain>\.pem") as caught:
        await FileSource.load(paths, BundlePaths(folder=folder), wait=0)
    assert caught.value.reason == "bad_bundle_name"
    (folder / name).rename(tmp_path / "file")
    async with polled(paths, forge, BundlePaths(folder=folder)) as followed:
        (tmp_path / "file").rename(folder / name)
        await followed.look()
        assert name in await followed.keeps("bad_bundle_name", "bundle")
        assert domains(followed) == {"cluster.local"}


async def test_hidden_files_are_the_writers_own(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """What begins with a dot is a file that is being written, or a volume's inside."""
    (folder / ".other.test.pem.new").write_bytes(b"half")
    (folder / "..2030_1").mkdir()
    paths = forge.write(tmp_path / "own", ROUTER)
    async with following(paths, BundlePaths(folder=folder)) as followed:
        put(folder, other)
        assert set((await followed.next()).bundles) == {"cluster.local", "other.test"}
    assert followed.source.failures == 0


async def test_a_folder_may_be_a_volume(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """A ConfigMap of bundles: a swap adds one domain and removes another at once."""
    third = Forge("third.test", forge.now)
    (folder / "..1").mkdir()
    put(folder / "..1", other)
    (folder / "..data").symlink_to("..1")
    (folder / "other.test.pem").symlink_to("..data/other.test.pem")
    paths = forge.write(tmp_path / "own", ROUTER)
    async with polled(paths, forge, BundlePaths(folder=folder)) as followed:
        assert domains(followed) == {"cluster.local", "other.test"}
        (folder / "..2").mkdir()
        put(folder / "..2", third)
        (folder / "..data_tmp").symlink_to("..2")
        (folder / "..data_tmp").rename(folder / "..data")
        (folder / "third.test.pem").symlink_to("..data/third.test.pem")
        await followed.look()
        assert domains(followed) == {"cluster.local", "third.test"}
    assert followed.source.failures == 0


async def test_a_folder_that_is_gone_says_nothing(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """A volume that is not mounted for a moment withdraws nobody's trust."""
    put(folder, other)
    paths = forge.write(tmp_path / "own", ROUTER)
    with pytest.raises(MaterialError, match="does not exist") as caught:
        await FileSource.load(paths, BundlePaths(folder=tmp_path / "x"), wait=0)
    assert caught.value.reason == "folder_missing"
    async with following(paths, BundlePaths(folder=folder)) as followed:
        os.rename(folder, tmp_path / "away")  # noqa: PTH104 -- ASYNC240 knows Path only
        await followed.keeps("folder_missing")
        assert domains(followed) == {"cluster.local", "other.test"}
        (tmp_path / "away" / "other.test.pem").unlink()
        (tmp_path / "away").rename(folder)
        assert set((await followed.next()).bundles) == {"cluster.local"}


# Our own


async def test_our_own_bundle_may_be_in_the_folder(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """One credential file and one folder of bundles are all that a service needs."""
    svid = forge.svid(ROUTER)
    credential = tmp_path / "credential.pem"
    credential.write_bytes(svid.key + svid.chain)
    put(folder, other)
    own = put(folder, forge)
    paths = Paths(credential, credential, folder)
    async with polled(paths, forge, BundlePaths(folder=folder)) as followed:
        assert domains(followed) == {"cluster.local", "other.test"}
        own.unlink()
        await followed.look()
        assert "add cluster.local.pem" in await followed.keeps("no_own_bundle")
        assert domains(followed) == {"cluster.local", "other.test"}
        in_place(own, forge.bundle[:50])
        await followed.look()
        await followed.keeps("half_written")
        in_place(own, forge.bundle + Forge("cluster.local").bundle)
        await followed.look()
        roots = (await followed.next()).bundles["cluster.local"].certificates
        assert len(roots) == 2


async def test_our_own_domain_is_told_once(
    forge: Forge, folder: Path, tmp_path: Path
) -> None:
    """Roots beside those we were given would be a way around them: never merged."""
    paths, stranger = forge.write(tmp_path / "own", ROUTER), Forge("cluster.local")
    file = put(folder, stranger)
    with pytest.raises(MaterialError) as caught:
        await FileSource.load(paths, BundlePaths(folder=folder), wait=0)
    assert caught.value.reason == "own_domain_twice"
    file.unlink()
    async with polled(paths, forge, BundlePaths(folder=folder)) as followed:
        put(folder, stranger)
        svid = forge.svid(ROUTER)
        forge.put(tmp_path / "own", svid)
        await followed.look()
        assert str(file) in await followed.keeps("own_domain_twice", "bundle")
        await followed.shows(svid)
        assert followed.source.current().bundles == {"cluster.local": forge.trust}


async def test_a_domain_is_told_once(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """A file that is named wins over one that turns up in the folder."""
    named = tmp_path / "named.pem"
    named.write_bytes(other.bundle)
    paths = forge.write(tmp_path / "own", ROUTER)
    bundles = BundlePaths({"other.test": named}, folder)
    async with polled(paths, forge, bundles) as followed:
        put(folder, Forge("other.test"))
        await followed.look()
        await followed.keeps("domain_twice", "bundle")
        assert followed.source.current().bundles["other.test"] == other.trust


# At the door


@asynccontextmanager
async def door(
    forge: Forge, folder: Path, tmp_path: Path
) -> AsyncIterator[tuple[Followed, Hosted]]:
    """Serve callers of other.test, whose bundle is in *folder* or not."""
    paths = forge.write(tmp_path / "own", PICOD)
    async with (
        following(paths, BundlePaths(folder=folder)) as followed,
        hosted(followed.source, allow=CALLER) as node,
    ):
        yield followed, node


@pytest.mark.slow
async def test_a_domain_is_let_in_and_shut_out_at_run_time(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """Connections and running streams of a withdrawn domain end within a second."""
    caller = other.source(CALLER, foreign=[forge])
    async with (
        door(forge, folder, tmp_path) as (followed, node),
        way(caller, node.address, expected=PICOD) as out,
    ):
        await out.refusal()
        assert node.acceptor.refusals["untrusted_chain"] > 0
        for _ in range(2):
            file = put(folder, other)
            await followed.next()
            await out.served()
            stream = out.both()
            await stream.write(b"ping")
            assert await stream.read() == b"ping"
            file.unlink()
            async with asyncio.timeout(1):
                assert await stream.code() is not grpc.StatusCode.OK
            await out.refusal()
            drained = await followed.next()
            assert "other.test" not in drained.bundles


@pytest.mark.slow
async def test_an_old_root_that_is_dropped_shuts_its_peers_out(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """Overlap of old and new root serves both; without the old one only the new."""
    newer = Forge("other.test", forge.now)
    newer.root = newer.signer(subject="newer")
    old = other.source(CALLER, foreign=[forge])
    new = newer.source(CALLER, foreign=[forge])
    file = put(folder, other)
    async with (
        door(forge, folder, tmp_path) as (followed, node),
        way(old, node.address, expected=PICOD) as out_old,
        way(new, node.address, expected=PICOD) as out_new,
    ):
        await out_old.call()
        await out_new.refusal()
        in_place(file, other.bundle + newer.bundle)
        await followed.next()
        await out_new.served()
        await out_old.call()
        stream = out_old.both()
        await stream.write(b"ping")
        assert await stream.read() == b"ping"
        in_place(file, newer.bundle)
        async with asyncio.timeout(1):
            assert await stream.code() is not grpc.StatusCode.OK
        await out_old.refusal()
        await out_new.served()


async def test_a_domain_makes_identities_of_its_own_only(
    forge: Forge, other: Forge, folder: Path, tmp_path: Path
) -> None:
    """A trusted domain's CA that makes a leaf of ours is refused: never merged."""
    put(folder, other)
    third = Forge("third.test", forge.now)
    put(folder, third)
    third.trust_domain = "other.test"  # its CA signs for somebody else's domain
    async with (
        door(forge, folder, tmp_path) as (_, node),
        way(third.source(CALLER, foreign=[forge]), node.address, expected=PICOD) as out,
    ):
        await out.refusal()
        assert set(node.acceptor.refusals) == {"untrusted_chain"}
