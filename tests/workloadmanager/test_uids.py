from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from workloadmanager._errors import PoolExhaustedError
from workloadmanager._uids import Uids, default_range

if TYPE_CHECKING:
    from pathlib import Path


def test_no_two_sandboxes_share_a_user() -> None:
    """A user comes back last, so that its leftovers have the longest time to die."""
    uids = Uids((100, 102))
    uids.hold(101)
    assert [uids.take(), uids.take()] == [100, 102]
    with pytest.raises(PoolExhaustedError):
        uids.take()
    uids.give(102)
    uids.give(102)
    uids.give(101)
    assert [uids.take(), uids.take()] == [102, 101]


def test_without_a_range_nobody_gets_a_user() -> None:
    """Unprivileged services share their own; giving it back does nothing."""
    uids = Uids(None)
    uids.give(7)
    uids.hold(7)
    assert uids.take() is None


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
