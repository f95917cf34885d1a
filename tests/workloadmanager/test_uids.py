from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from workloadmanager._errors import PoolExhaustedError
from workloadmanager._uids import Uids, default_range

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def first(_: int) -> int:
    return 0


async def idle() -> Collection[int]:
    return ()


async def one_hundred() -> Collection[int]:
    return {0, 100}


async def test_no_two_sandboxes_share_a_user() -> None:
    """A user comes back last, so that its leftovers have the longest time to die."""
    uids = Uids((100, 102), begin=first, busy=idle)
    assert uids.hold(101)
    assert [await uids.take(), await uids.take()] == [100, 102]
    with pytest.raises(PoolExhaustedError):
        await uids.take()
    uids.give(102)
    uids.give(102)
    uids.give(101)
    assert [await uids.take(), await uids.take()] == [102, 101]
    uids.close()


async def test_no_two_managers_share_a_user() -> None:
    """Meshes on one machine have the same range by default, and kill by user."""
    ours = Uids((100, 102), begin=first, busy=idle)
    theirs = Uids((100, 102), begin=first, busy=idle)
    assert [await ours.take(), await theirs.take()] == [100, 101]
    assert not theirs.hold(100)
    ours.give(100)
    assert theirs.hold(100)
    ours.close()
    theirs.close()


async def test_a_user_with_processes_is_left_alone() -> None:
    """A sandbox whose manager was killed still lives as somebody."""
    uids = Uids((100, 101), begin=first, busy=one_hundred)
    assert await uids.take() == 101
    with pytest.raises(PoolExhaustedError):
        await uids.take()
    uids.close()


async def test_many_users_are_looked_at_together() -> None:
    """A look takes its time, so it is not taken for each; none is shared for that."""
    looks = 0

    async def busy() -> Collection[int]:
        nonlocal looks
        looks += 1
        return {105}

    uids = Uids((100, 355), begin=first, busy=busy)
    taken = [await uids.take() for _ in range(20)]
    assert len({*taken} - {105}) == 20
    assert looks == 2
    uids.close()


async def test_without_a_range_nobody_gets_a_user() -> None:
    """Unprivileged services share their own; giving it back does nothing."""
    uids = Uids(None, busy=idle)
    uids.give(7)
    assert not uids.hold(None)
    assert await uids.take() is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives users away")
@pytest.mark.parametrize(
    ("text", "first"),
    [("0 0 4294967295", 1_900_000_000), ("0 100000 65536", 40_000), ("0 1000 1", None)],
)
def test_the_default_range_exists_in_our_namespace(
    tmp_path: Path, text: str, first: int | None
) -> None:
    """Inside a container only some users can be taken at all."""
    (tmp_path / "uid_map").write_text(f"  {text}\n")
    found = default_range(tmp_path / "uid_map")
    assert (found and found[0]) == first
