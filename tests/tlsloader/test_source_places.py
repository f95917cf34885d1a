"""Where files can be: volumes, links, folders that come and go, and odd things."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.fakes import until
from tests.forge import Forge
from tests.spire.programs import started
from tests.tlsloader.followed import (
    ROUTER,
    drain,
    following,
    in_place,
    path_of,
    polled,
)
from tlsloader import BundlePaths, FileSource, Material, MaterialError, Paths
from tlsloader._files import Look
from tlsloader._snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.forge import Svid

NOBODY = 65534


class Volume:
    """A volume as the kubelet writes it: all files change by one rename of a link."""

    def __init__(self, folder: Path, forge: Forge) -> None:
        self.folder = folder
        self.forge = forge
        self.number = 0
        self.paths = Paths(*(folder / n for n in ("key.pem", "svid.pem", "bundle.pem")))

    def swap(self, svid: Svid) -> None:
        """Write *svid* as the kubelet does: new folder, link, old folder away."""
        self.number += 1
        old = self.folder / f"..2030_{self.number - 1}"
        new = self.folder / f"..2030_{self.number}"
        self.forge.put(new, svid)
        link = self.folder / "..data_tmp"
        link.symlink_to(new.name)
        link.rename(self.folder / "..data")
        for path in (self.paths.key, self.paths.chain, self.paths.bundle):
            if not path.is_symlink():
                path.symlink_to(f"..data/{path.name}")
        shutil.rmtree(old, ignore_errors=True)


@pytest.fixture
def volume(forge: Forge, tmp_path: Path) -> Volume:
    made = Volume(tmp_path / "volume", forge)
    made.swap(forge.svid(ROUTER))
    return made


# Kubernetes


async def test_follows_a_kubernetes_volume(volume: Volume) -> None:
    """A swap of the ``..data`` link changes all files at once, and is heard."""
    async with following(volume.paths) as followed:
        for _ in range(3):
            svid = volume.forge.svid(ROUTER)
            volume.swap(svid)
            await followed.shows(svid)
    assert (followed.source.generation, followed.source.failures) == (4, 0)


def test_one_look_sees_one_generation(volume: Volume) -> None:
    """A swap between two reads changes nothing about the second."""
    before = volume.paths.chain.read_bytes()
    kept = volume.folder / "..2030_1"
    with Look() as look:
        key = look.required(volume.paths.key)
        kept.rename(volume.folder / "..kept")  # or the swap would remove it
        volume.swap(volume.forge.svid(ROUTER))
        chain = look.required(volume.paths.chain)
        assert not look.unmoved
    assert chain.data == before
    now = volume.paths.key.read_bytes()
    assert key.data != now


@pytest.mark.slow
def test_no_look_mixes_generations(volume: Volume) -> None:
    """Swapped as fast as can be, a volume is never seen half old, nor half gone."""
    over, foreign = threading.Event(), volume.folder / "bundle.pem"
    svids = [volume.forge.svid(ROUTER) for _ in range(20)]

    def swap() -> None:
        while not over.is_set():
            volume.swap(svids[volume.number % len(svids)])

    volume.swap(svids[0])
    writer = threading.Thread(target=swap)
    writer.start()
    bundles, seen = BundlePaths({"other.test": foreign}), set()
    try:
        for _ in range(300):
            try:
                found = Snapshot.read(volume.paths, bundles)
            except MaterialError as error:
                assert error.reason == "files_moving"  # noqa: PT017
                continue
            assert "other.test" in found.others
            (svid,) = (each for each in svids if each.key == found.key.data)
            assert found.chain.data == svid.chain
            seen.add(svid.leaf_sha256)
    finally:
        over.set()
        writer.join()
    assert len(seen) > 1


async def test_a_part_of_a_volume_is_followed(forge: Forge, tmp_path: Path) -> None:
    """Items in a subfolder of a volume are links, too, one level higher."""
    volume, first, second = tmp_path / "v", forge.svid(ROUTER), forge.svid(ROUTER)
    forge.put(volume / "..1" / "id", first)
    (volume / "..data").symlink_to("..1")
    (volume / "id").symlink_to("..data/id")
    folder = volume / "id"
    paths = Paths(folder / "key.pem", folder / "svid.pem", folder / "bundle.pem")
    async with following(paths, poll=0.2) as followed:
        forge.put(volume / "..2" / "id", second)
        (volume / "..data_tmp").symlink_to("..2")
        (volume / "..data_tmp").rename(volume / "..data")
        await followed.shows(second)
    assert followed.source.failures == 0


async def test_the_files_may_be_apart(forge: Forge, tmp_path: Path) -> None:
    """Key, chain and bundle need not be in one folder, nor in one volume."""
    volume = Volume(tmp_path / "volume", forge)
    volume.swap(forge.svid(ROUTER))
    roots = tmp_path / "roots" / "bundle.pem"
    roots.parent.mkdir()
    roots.write_bytes(forge.bundle)
    paths = Paths(volume.paths.key, volume.paths.chain, roots)
    async with following(paths) as followed:
        svid = forge.svid(ROUTER)
        volume.swap(svid)
        await followed.shows(svid)
        in_place(roots, forge.bundle + Forge("cluster.local").bundle)
        await followed.next()
    assert (followed.source.generation, followed.source.failures) == (3, 0)


# Folders


async def test_the_folder_may_go_and_come_back(forge: Forge, tmp_path: Path) -> None:
    """A folder that is made anew is followed like the old one, twice."""
    folder = tmp_path / "identity"
    async with following(forge.write(folder, ROUTER)) as followed:
        for _ in range(2):
            shutil.rmtree(folder)
            await followed.keeps("file_missing")
            svid = forge.svid(ROUTER)
            forge.put(folder, svid)
            await followed.shows(svid)
            drain(followed.records)  # it may have looked while we wrote


async def test_the_folder_may_be_renamed(forge: Forge, tmp_path: Path) -> None:
    """Moved away it is missed; another one moved there is followed."""
    folder, new = tmp_path / "identity", tmp_path / "new"
    async with following(forge.write(folder, ROUTER)) as followed:
        folder.rename(tmp_path / "old")
        await followed.keeps("file_missing")
        for number in range(2):
            svid = forge.svid(ROUTER)
            forge.put(new, svid)
            new.rename(folder)
            await followed.shows(svid)
            svid = forge.svid(ROUTER)
            forge.put(folder, svid)
            await followed.shows(svid)
            folder.rename(tmp_path / f"old{number}")
            await followed.keeps("file_missing")


async def test_the_folder_may_be_a_link_that_is_swapped(
    forge: Forge, tmp_path: Path
) -> None:
    """A release is switched by one link while the old one stays where it is."""
    first, second = forge.svid(ROUTER), forge.svid(ROUTER)
    old, new = forge.put(tmp_path / "1", first), forge.put(tmp_path / "2", second)
    current, link = tmp_path / "current", tmp_path / "link"
    current.symlink_to("1")
    paths = Paths(*(current / each.name for each in (old.key, old.chain, old.bundle)))
    async with following(paths) as followed:
        start = followed.source.confirmed
        async with asyncio.timeout(5):
            await until(lambda: followed.source.confirmed > start)
        link.symlink_to("2")
        link.rename(current)
        await followed.shows(second)
        assert new.key.exists()


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount an empty file system on *folder*, as a volume is; needs root."""
    mount = ("/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)


@pytest.mark.root
@pytest.mark.slow
async def test_the_folder_may_be_mounted_anew(forge: Forge, tmp_path: Path) -> None:
    """No event tells of a mount; polling finds it, and then its changes are heard."""
    folder = tmp_path / "identity"
    folder.mkdir()
    with ExitStack() as volume:
        volume.enter_context(mounted(folder))
        async with following(forge.write(folder, ROUTER), poll=0.2) as followed:
            volume.close()
            await followed.keeps("file_missing")
            volume.enter_context(mounted(folder))
            for _ in range(2):
                svid = forge.svid(ROUTER)
                forge.put(folder, svid)
                await followed.shows(svid)


@pytest.mark.root
@pytest.mark.slow
async def test_a_full_volume_is_survived(forge: Forge, tmp_path: Path) -> None:
    """ENOSPC: every file of the identity is torn in its turn; then there is room."""
    with mounted(tmp_path):
        paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
        async with following(paths, poll=0.2) as followed:
            before, filler = followed.source.current(), tmp_path / "filler"
            for path, data in ((paths.chain, svid.chain), (paths.key, svid.key)):
                path.write_bytes(b"")  # as a writer does first, in place
                fill(filler)
                with pytest.raises(OSError, match="No space left"):
                    in_place(path, data)
                await followed.keeps("empty_file")
                assert followed.source.current() is before
                filler.unlink()
                in_place(path, data)
            await followed.shows(svid)


def fill(path: Path) -> None:
    """Take all the room that there is."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


# Odd things in the place of a file


async def test_a_link_may_dangle_for_a_while(forge: Forge, tmp_path: Path) -> None:
    """A link without an end is a missing file, and is followed once it has one."""
    paths, svid = forge.write(tmp_path / "a", ROUTER), forge.svid(ROUTER)
    there = tmp_path / "b" / "key.pem"
    async with following(paths) as followed:
        paths.key.unlink()
        paths.key.symlink_to(there)
        await followed.keeps("file_missing")
        in_place(paths.chain, svid.chain)
        there.parent.mkdir()
        there.touch(mode=0o600)
        in_place(there, svid.key)
        await followed.shows(svid)


async def test_a_link_to_itself_is_told_apart(forge: Forge, tmp_path: Path) -> None:
    """Nothing is missing there; somebody has to mend a link."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    async with following(paths) as followed:
        paths.key.unlink()
        paths.key.symlink_to(paths.key.name)
        assert "mend the link" in await followed.keeps("file_unreadable")
        paths.key.unlink()
        forge.put(tmp_path, svid)
        await followed.shows(svid)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_pipe, "not_a_file"),
        (_device, "not_a_file"),
        (_folder, "not_a_file"),
        (_huge, "file_too_large"),
    ],
)
@pytest.mark.parametrize("part", ["key", "chain", "bundle"])
async def test_odd_things_are_not_read(
    forge: Forge, tmp_path: Path, part: str, make: Callable[[Path], None], reason: str
) -> None:
    """A pipe does not hang us, a device or a huge file does not fill the memory."""
    paths, svid = forge.write(tmp_path, ROUTER), forge.svid(ROUTER)
    path = path_of(paths, part)
    async with polled(paths, forge) as followed:
        path.unlink()
        make(path)
        await followed.look()
        assert str(path) in await followed.keeps(reason)
        path.rename(tmp_path / "odd")
        forge.put(tmp_path, svid)
        await followed.look()
        await followed.shows(svid)


def test_a_pipe_notices_nothing(forge: Forge, tmp_path: Path) -> None:
    """Who waits at its other end is not let go: the pipe is not even opened."""
    paths, pipe = forge.write(tmp_path, ROUTER), tmp_path / "pipe"
    os.mkfifo(pipe)
    opened = threading.Event()

    def wait() -> None:
        with pipe.open("wb"):  # returns once there is a reader
            opened.set()

    writer = threading.Thread(target=wait)
    writer.start()
    for _ in range(100):
        with pytest.raises(MaterialError):
            Material.load(Paths(pipe, paths.chain, paths.bundle), now=forge.now)
    assert not opened.is_set()
    with pipe.open("rb"):
        writer.join()


# Rights


def _hide(folder: Path) -> None:
    """Let the follower pass *folder*, but not list it."""
    folder.chmod(0o711 if os.getuid() == 0 else 0o311)


@pytest.mark.slow
async def test_rights_that_are_mended_are_enough(
    forge: Forge, open_folder: Path
) -> None:
    """A file that we may not read is told, and read as soon as we may."""
    first, second = forge.svid(ROUTER), forge.svid(ROUTER)
    paths, uid = forge.put(open_folder, first), os.getuid() or NOBODY
    for path in (paths.key, paths.chain, paths.bundle):
        path.chmod(0o644)
    argv = (sys.executable, "-m", "tests.tlsloader.follower", str(open_folder))
    async with started(*argv, "--uid", str(uid)) as follower:
        await follower.tells("identity loaded")
        paths.key.chmod(0)
        told = await follower.tells("identity kept")
        assert told["reason"] == "file_unreadable"
        assert "let the user of this service read it" in told["detail"]
        paths.key.chmod(0o644)
        in_place(paths.chain, second.chain)
        in_place(paths.key, second.key)
        told = await follower.tells("identity loaded")
        assert told["leaf_sha256"] == second.leaf_sha256


@pytest.mark.slow
async def test_a_folder_that_may_not_be_listed_is_polled(
    forge: Forge, open_folder: Path
) -> None:
    """Files can be read there by their names; that nothing can be heard is said."""
    paths, uid = forge.put(open_folder, forge.svid(ROUTER)), os.getuid() or NOBODY
    for path in (paths.key, paths.chain, paths.bundle):
        path.chmod(0o644)
    _hide(open_folder)
    argv = (sys.executable, "-m", "tests.tlsloader.follower", str(open_folder))
    async with started(*argv, "--uid", str(uid), "--poll", "0.1") as follower:
        told = await follower.tells("inotify is not to be had")
        assert "permission denied" in told["detail"]
        svid = forge.svid(ROUTER)
        in_place(paths.chain, svid.chain)
        in_place(paths.key, svid.key)
        while told.get("leaf_sha256") != svid.leaf_sha256:
            told = await follower.tells("identity loaded")


async def test_warns_of_a_key_that_others_can_read(
    forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A private key that is not private is said, once per generation."""
    paths = forge.write(tmp_path, ROUTER)
    await FileSource.load(paths, wait=0)
    assert "identity key exposed" not in caplog.messages
    paths.key.chmod(0o644)
    await FileSource.load(paths, wait=0)
    assert "identity key exposed" in caplog.messages
