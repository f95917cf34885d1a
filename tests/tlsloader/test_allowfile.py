"""An allowlist in a file: read as a whole or not at all, and followed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeClock, running
from tests.forge import Forge
from tests.tlsloader.transport import (
    PICOD,
    ROUTER,
    STRANGER,
    hosted,
    until,
    way,
)
from tlsloader import (
    Allowlist,
    AllowlistError,
    AllowlistFile,
    SpiffeID,
    read_allowlist,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.tlsloader.transport import Hosted

AT_ONCE = 1.0
FORGE = Forge()


def write(path: Path, text: str) -> None:
    """Put *text* into *path* by one rename."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def test_one_rule_a_line(tmp_path: Path) -> None:
    """Comments, blank lines, spaces and line ends of Windows do not matter."""
    path = tmp_path / "ids"
    path.write_bytes(
        b"# who may come in\r\n\r\n"
        b"  spiffe://td/user/ada\r\n"
        b"spiffe://td/team/ # all of them\n"
        b"\t\nspiffe://other/"
    )
    allow = read_allowlist(path)
    assert allow == Allowlist.parse(
        "spiffe://td/user/ada", "spiffe://td/team/", "spiffe://other/"
    )


def test_nothing_is_nobody(tmp_path: Path) -> None:
    """An empty file is a list, and admits nobody."""
    path = tmp_path / "ids"
    for text in ("", "\n\n", "# nobody\n"):
        path.write_text(text)
        assert read_allowlist(path) == Allowlist()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("spiffe://td", "whole trust domain"),
        ("ada", "does not start with spiffe://"),
        ("spiffe://td/a spiffe://td/b", "holds only"),
        ("spiffe://td/*", "holds only"),
        ("spiffe://TD/a", "holds only"),
    ],
)
def test_one_bad_line_spoils_the_file(tmp_path: Path, line: str, why: str) -> None:
    """Half a list would let in whom nobody meant; the error says where and why."""
    path = tmp_path / "ids"
    path.write_text(f"spiffe://td/user/ada\n{line}\nspiffe://td/user/eve\n")
    with pytest.raises(AllowlistError) as caught:
        read_allowlist(path)
    error = caught.value
    assert (error.reason, error.line) == ("malformed_line", 2)
    assert str(error).startswith(f"{path}, line 2: ")
    assert why in str(error)
    assert "spiffe://td/prefix/" in error.hint


def test_what_is_no_file_is_no_list(tmp_path: Path) -> None:
    """Missing, a folder, no text: each is told by its name."""
    for path, reason in (
        (tmp_path / "gone", "file_missing"),
        (tmp_path, "not_a_file"),
    ):
        with pytest.raises(AllowlistError, match=str(path)) as caught:
            read_allowlist(path)
        assert caught.value.reason == reason
    path = tmp_path / "ids"
    path.write_bytes(b"spiffe://td/a\n\xff\xfe\n")
    with pytest.raises(AllowlistError, match="line 2"):
        read_allowlist(path)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """Nothing else comes of them."""
    path = tmp_path_factory.getbasetemp() / "ids"
    path.write_bytes(data)
    with suppress(AllowlistError):
        text = data.decode(errors="replace")
        assert all(str(rule) in text for rule in read_allowlist(path).matchers)


@asynccontextmanager
async def followed(path: Path, **how: Any) -> AsyncIterator[AllowlistFile]:
    found = await AllowlistFile.load(path)
    async with running(found.follow(**how)):
        yield found


async def lists(found: AllowlistFile, *texts: str) -> None:
    """Return once the list in force is that of *texts*; soon enough."""
    wanted = Allowlist.parse(*texts)
    await until(lambda: found.current() == wanted, AT_ONCE)


@pytest.mark.slow
@pytest.mark.parametrize("watch", [True, False], ids=["inotify", "polling"])
async def test_a_change_is_in_force_within_a_second(
    tmp_path: Path, *, watch: bool
) -> None:
    """With inotify at once, by comparing the content otherwise."""
    path = tmp_path / "ids"
    write(path, ROUTER)
    async with followed(path, watch=watch) as found:
        told: list[Allowlist] = []
        end = found.subscribe(told.append)
        for text in (STRANGER, f"{ROUTER}\n{STRANGER}", ""):
            write(path, text)
            await lists(found, *text.split())
        assert [len(each.matchers) for each in told] == [1, 2, 0]
        end()
        path.write_text(ROUTER)  # in place, as editors do
        await lists(found, ROUTER)
        assert len(told) == 3


async def test_a_volume_of_kubernetes_is_followed(tmp_path: Path) -> None:
    """There the file is a link into a folder that is swapped."""
    for stamp, text in (("..1", ROUTER), ("..2", STRANGER)):
        (tmp_path / stamp).mkdir()
        (tmp_path / stamp / "ids").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "ids").symlink_to("..data/ids")
    async with followed(tmp_path / "ids") as found:
        (tmp_path / "..tmp").symlink_to("..2")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        await lists(found, STRANGER)


async def test_a_bad_change_leaves_the_last_good_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and logged once, with the line; a good one is taken again."""
    path, clock = tmp_path / "ids", FakeClock()
    write(path, ROUTER)
    found = await AllowlistFile.load(path, clock=clock)
    async with running(found.follow(watch=False)):
        for text in (f"{STRANGER}\nnonsense", f"{STRANGER}\nnonsense"):
            write(path, text)
            await clock.advance(0.5)
            await clock.advance(0)
        assert found.current() == Allowlist.parse(ROUTER)
        assert found.refusals == {"malformed_line": 1}
        path.unlink()
        await clock.advance(0.5)
        await clock.advance(0)
        assert found.refusals == {"malformed_line": 1, "file_missing": 1}
        assert found.current() == Allowlist.parse(ROUTER)
        write(path, STRANGER)
        await clock.advance(0.5)
        await clock.advance(0)
        assert found.current() == Allowlist.parse(STRANGER)
    kept = [vars(each) for each in caplog.records if each.message == "allowlist kept"]
    assert [(each["reason"], each["line"]) for each in kept] == [
        ("malformed_line", 2),
        ("file_missing", 0),
    ]
    assert "'nonsense' admits nobody" in kept[0]["detail"]


async def test_a_change_that_changes_nothing_tells_nobody(tmp_path: Path) -> None:
    """Comments are for people."""
    path, clock = tmp_path / "ids", FakeClock()
    write(path, ROUTER)
    found = await AllowlistFile.load(path, clock=clock)
    found.subscribe(lambda _: pytest.fail("told of news"))
    async with running(found.follow(watch=False)):
        write(path, f"# the one and only\n{ROUTER}\n")
        await clock.advance(0.5)
        await clock.advance(0)


@asynccontextmanager
async def listed(path: Path, forge: Forge = FORGE) -> AsyncIterator[Hosted]:
    """Run a door whose list is in *path*."""
    async with followed(path) as found, hosted(forge.source(PICOD)) as node:
        node.acceptor.change_allowlist(found.current())
        found.subscribe(node.acceptor.change_allowlist)
        yield node


@pytest.mark.slow
async def test_a_new_list_lets_in_and_turns_out(tmp_path: Path) -> None:
    """Within a second, new connections and running calls alike."""
    path = tmp_path / "ids"
    write(path, ROUTER)
    async with (
        listed(path) as node,
        way(FORGE.source(ROUTER), node.address) as router,
        way(FORGE.source(STRANGER), node.address) as stranger,
    ):
        stream = router.both()
        await stream.write(b"x")
        assert await stream.read() == b"x"
        assert (await stranger.refusal()).code() is grpc.StatusCode.UNAVAILABLE
        write(path, STRANGER)
        async with asyncio.timeout(AT_ONCE):
            assert await stream.code() is grpc.StatusCode.PERMISSION_DENIED
        assert await stranger.served(AT_ONCE) < AT_ONCE
        assert (await router.refusal()).code() is grpc.StatusCode.UNAVAILABLE


async def test_whom_nobody_can_prove_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A rule about a domain without a bundle, and a list without a rule."""

    def told() -> list[str]:
        closed = [each for each in caplog.records if each.message == "door is closed"]
        assert all(each.levelno == logging.WARNING for each in closed)
        return [vars(each)["detail"] for each in closed]

    path = tmp_path / "ids"
    write(path, f"{ROUTER}\nspiffe://partner.test/\n")
    async with listed(path) as node:
        assert told() == [
            "nobody can prove partner.test: there is no bundle (--trust-bundle)"
        ]
        node.acceptor.change_allowlist(Allowlist.parse("spiffe://partner.test/"))
        assert len(told()) == 1  # once
        node.acceptor.change_allowlist(Allowlist())
        assert told()[-1] == "the allowlist is empty: this door admits nobody"


def test_a_long_list_is_asked_as_fast_as_a_short_one() -> None:
    """Each call asks it: ten thousand identities are one look-up."""
    many = [f"spiffe://td/user/{number}" for number in range(10_000)]
    allow = Allowlist.parse(*many, "spiffe://td/team/")
    admitted = [SpiffeID.parse(text) for text in (many[-1], "spiffe://td/team/a")]
    assert all(map(allow.admits, admitted))
    assert not allow.admits(SpiffeID.parse("spiffe://td/user/x"))
    assert len(allow._others) == 1
