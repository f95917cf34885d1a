"""Templates with `allow_network`: out to the internet, and to nothing near."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picod._errors import IsolationError
from picod._network import local_addresses, rules
from picod._runner import Runner, Wanted
from tests.isolation.hosts import UIDS

TREE = Path(__file__).resolve().parents[2]
FIB = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 9.9.9.2
        /32 host LOCAL
     |-- 9.9.9.3
        /32 link BROADCAST
Local:
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 9.9.9.2
        /32 host LOCAL
"""


def need(*programs: str) -> None:
    """Skip the test where one is missing; in CI that is a failure."""
    absent = [name for name in programs if not shutil.which(name)]
    if absent:
        reason = f"{', '.join(absent)} missing: run `make peers`"
        if os.environ.get("CI") == "true":  # noqa: TID251 -- what runs decides
            pytest.fail(reason)
        pytest.skip(reason)


def reached(carrier: str, weakened: str = "") -> dict[str, Any]:
    """Run a sandbox on an internet of its own; return what its code reached."""
    need(carrier, "nft", "ip", "unshare", "nsenter")
    unshare = shutil.which("unshare")
    assert unshare
    script = [sys.executable, "-m", "tests.isolation.internet", carrier, weakened]
    done = subprocess.run(
        [unshare, "--net", "--mount", *script],
        cwd=TREE,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def flat(found: dict[str, Any], *names: str) -> set[str]:
    """Return all that came of *names*, without the reasons."""
    values: list[str] = []
    for name in names:
        value = found[name]
        values += value if isinstance(value, list) else [value]
    return {value.split()[0] for value in values}


NEAR = ("near", "near, by the link", "near, UDP", "near, UDP by the link")
HOST = ("the host", "the host, by the link")


@pytest.mark.network
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
@pytest.mark.parametrize("carrier", ["pasta", "slirp4netns"])
def test_the_internet_and_nothing_near(carrier: str) -> None:
    """Public addresses and names are reached; private ones and the host never are."""
    found = reached(carrier)
    assert flat(found, "public", "public, UDP", "named") == {"reached"}, found
    assert flat(found, *NEAR, *HOST, "six") == {"refused"}, found


@pytest.mark.network
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
def test_it_is_the_fence_that_holds() -> None:
    """Without the rules the metadata address, neighbours and the host are reached."""
    found = reached("pasta", "fence")
    for name in NEAR:
        assert flat(found, name) == {"reached"}, (name, found)
    assert "reached" in flat(found, "the host"), found
    found = reached("pasta", "own")
    assert flat(found, *NEAR) == {"refused"}, found
    assert found["the host"][-1] == "reached", found


def test_the_hosts_own_addresses() -> None:
    """They are found in the kernel's table, each once, and refused by the rules."""
    assert list(local_addresses(FIB)) == ["127.0.0.1", "9.9.9.2"]
    assert "ip daddr 9.9.9.2 reject" in rules(["9.9.9.2"])


@given(st.text("0123456789.|- \n", max_size=40))
def test_a_strange_table_gives_no_rule(text: str) -> None:
    """Whatever the table holds, only addresses come out of it."""
    for address in local_addresses(f"{text}|-- 1.2{text}\n  /32 host LOCAL"):
        assert set(address) <= set("0123456789.")


async def test_without_a_carrier_there_is_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where neither pasta nor slirp4netns is, the sandbox is refused and gone."""
    monkeypatch.setattr("picod._network.shutil.which", lambda *_, **__: None)
    with pytest.raises(IsolationError, match="pasta or slirp4netns") as caught:
        await Runner.start("x", Wanted(uid=UIDS[0], network=True))
    assert "passt" in caught.value.hint
