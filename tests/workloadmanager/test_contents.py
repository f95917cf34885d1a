"""Files and secrets of a session: which a sandbox can have, and what if it cannot."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picod._contents import Contents as Inside
from picod._errors import InvalidRequestError as RefusedInside
from picod.inside.paths import PathError, Root, find
from tests.workloadmanager.engine import House, wish
from tests.workloadmanager.test_pools import warmed
from workloadmanager._contents import Contents, check, place
from workloadmanager._errors import (
    BindingRefusedError,
    BindingTooLargeError,
    InvalidPathError,
    InvalidRequestError,
    PathOutsideWorkspaceError,
    SecretsNotIsolatedError,
)
from workloadmanager._templates import Template, Templates
from workloadmanager._values import Start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes import FakeClock

SECRET = b"s3cret-of-the-session"
PARTS = st.sampled_from(
    [b"", b".", b"..", b"a", b"b", b"workspace", b"tmp", b"etc", b"x" * 256, b"\xff"]
)
PATHS = st.lists(PARTS, max_size=6).map(b"/".join)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Root]]:
    roots = []
    for name in ("workspace", "tmp"):
        real = tmp_path_factory.mktemp(name, numbered=False)
        roots.append(Root(b"/" + name.encode(), os.fsencode(real)))
    yield roots
    for root in roots:
        os.close(root.descriptor)


def found(roots: list[Root], path: bytes) -> bytes | None:
    """Return where the runner would make a file for *path*; None: nowhere."""
    try:
        with find(roots, path, follow=False, make=True) as there:
            named = [each for each in path.split(b"/") if each not in (b"", b".")]
            folder = there.is_root or named[-1] == b".."
            return None if folder or len(there.name) > 255 else there.path
    except (PathError, OSError):
        return None


def let_pass(path: bytes) -> bytes | None:
    """Return where *path* is taken to lead; None: it is refused."""
    try:
        return b"/" + b"/".join(place(path))
    except (InvalidPathError, PathOutsideWorkspaceError):
        return None


@given(PATHS | st.binary(max_size=20))
def test_places_are_those_that_the_runner_finds(roots: list[Root], path: bytes) -> None:
    """What is let pass here is made just there, and what is refused could not be."""
    assert let_pass(path) == found(roots, path)


@given(st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9_.-]{0,70}", fullmatch=True))
def test_names_of_secrets_cannot_leave_their_folder(name: str) -> None:
    """Both who passes them on and who writes them take the same, and no more."""
    good = re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) and name not in {".", ".."}
    for make, refusal in (
        (lambda: check(Contents((), {name: b""})), InvalidRequestError),
        (lambda: Inside((), {name: b""}), RefusedInside),
    ):
        if good:
            make()
        else:
            with pytest.raises(refusal):
                make()


@pytest.mark.parametrize(
    ("files", "refusal"),
    [
        ([b"", b"a"], InvalidPathError),
        ([b"a\0b"], InvalidPathError),
        ([b"x" * 4097], InvalidPathError),
        ([b"."], InvalidPathError),
        ([b"a/.."], InvalidPathError),
        ([b"a/b/.."], InvalidPathError),
        ([b"a", b"./a"], InvalidPathError),
        ([b"a/b", b"z", b"a"], InvalidPathError),
        ([b"../etc/passwd"], PathOutsideWorkspaceError),
        ([b"/run/secrets/x"], PathOutsideWorkspaceError),
        ([b"/.."], PathOutsideWorkspaceError),
        ([b"%d" % n for n in range(257)], BindingTooLargeError),
    ],
)
async def test_bad_files_are_refused_before_anything_is_made(
    house: House, files: list[bytes], refusal: type[InvalidRequestError]
) -> None:
    """With the field at fault, and no sandbox claimed or begun."""
    contents = Contents([(path, b"") for path in files])
    with pytest.raises(refusal) as caught:
        await house.sessions.create(wish(contents=contents))
    assert caught.value.metadata == {"field": "files"}
    assert house.engine.begun == 0


@pytest.mark.parametrize(
    "contents",
    [
        Contents([(b"a", bytes(1 << 20)), (b"b", bytes(1 << 20))]),
        Contents((), {f"n{n}": b"" for n in range(65)}),
        Contents((), {"a": bytes(256 << 10)}),
    ],
    ids=["files", "number of secrets", "secrets"],
)
async def test_what_one_message_does_not_take(house: House, contents: Contents) -> None:
    """Names and contents count together."""
    with pytest.raises(BindingTooLargeError, match="at most"):
        await house.sessions.create(wish(contents=contents))
    assert house.engine.begun == 0


def test_as_much_as_there_may_be() -> None:
    """The bounds themselves are still within."""
    check(Contents([(b"a", bytes((2 << 20) - 1))], {"a": bytes((256 << 10) - 1)}))
    check(Contents([(b"%d" % n, b"") for n in range(256)]))
    check(Contents((), {f"n{n}": b"" for n in range(64)}))


async def test_no_secrets_where_nothing_isolates(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Files are fine there; whoever shares the user would read the rest."""
    async with House.open(tmp_path, clock) as house:
        house.sessions.templates = Templates([Template(name="short", isolation="none")])
        with pytest.raises(SecretsNotIsolatedError):
            await house.sessions.create(wish(contents=Contents((), {"a": SECRET})))
        assert house.engine.begun == 0
        await house.sessions.create(wish(contents=Contents([(b"a", b"")])))


def test_no_text_shows_them() -> None:
    """Neither contents nor paths of a wish are in what a log could get of it."""
    wished = wish(contents=Contents([(b"path", SECRET)], {"NAME": SECRET}))
    assert "cret" not in repr(wished)
    assert "NAME" not in repr(wished)


async def test_a_sandbox_that_refuses_them_is_never_handed_out(
    tmp_path: Path, clock: FakeClock
) -> None:
    """It is destroyed, no other is tried in vain, and the caller reads why."""
    async with warmed(tmp_path, clock) as house:
        ready = {*house.engine.alive}
        house.engine.refusal = BindingRefusedError("NO_SPACE", "file 'a': it is full")
        with pytest.raises(BindingRefusedError, match="file 'a': it is full") as caught:
            await house.sessions.create(wish(contents=Contents([(b"a", b"")])))
        assert caught.value.metadata == {"fault": "NO_SPACE"}
        assert house.engine.begun == 2
        assert len(house.sessions) == 0
        [destroyed] = house.engine.destroyed
        assert destroyed in ready


async def test_the_same_request_is_bound_once(tmp_path: Path, clock: FakeClock) -> None:
    """Asked again, also with other contents, it is the session that was made."""
    async with warmed(tmp_path, clock) as house:
        first = Contents([(b"a", b"1")], {"A": SECRET})
        made = await house.sessions.create(wish(request_id="k", contents=first))
        assert made.start is Start.WARM
        other = Contents([(b"a", b"2")])
        again = await house.sessions.create(wish(request_id="k", contents=other))
        assert again == made
        assert [each.contents for each in house.engine.bound.values()] == [first]
