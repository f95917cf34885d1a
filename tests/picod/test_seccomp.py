"""The filter of system calls: what was built is what is loaded, and what it decides."""

from __future__ import annotations

import ctypes.util
import errno
import itertools
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picod._errors import IsolationError
from picod.seccomp import ARCHITECTURES, SUMS, load
from picod.seccomp._rules import ALLOWED, REFUSED, REFUSED_SOME, SOME
from tests.picod import bpf

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = range(1024)
WORDS = (0, 1, 2, 3, 10, 16, 38, 40, 0x5401, 0x5412, 0x541C, 2**32 - 1)
# name: its number on x86_64 and on aarch64
CALLS = {
    "ioctl": (16, 29),
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "mknodat": (259, 33),
    "personality": (135, 92),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "mount": (165, 40),
    "fsopen": (430, 430),
    "unshare": (272, 97),
    "setns": (308, 268),
    "read": (0, 63),
    "execve": (59, 221),
}
PERM, NOSYS, FAMILY = (
    bpf.ERRNO | number for number in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT)
)


def asked(architecture: str, name: str, *args: int) -> int:
    """Return what the filter of *architecture* says to one call."""
    number = CALLS[name][architecture == "aarch64"]
    return bpf.decide(
        load(architecture), bpf.ARCHITECTURES[architecture], number, *args
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_committed_is_what_the_rules_say(architecture: str) -> None:
    """A filter that is built anew decides every call as the committed one does."""
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("no libseccomp to build with")
    from picod.seccomp.__main__ import build  # noqa: PLC0415  # needs it at once

    fresh, kept = build(architecture), load(architecture)
    if fresh == kept:
        return
    machine = bpf.ARCHITECTURES[architecture]  # by another libseccomp, in other words
    for number, first, second in itertools.product(NUMBERS, WORDS, WORDS):
        call = (machine, number, first, second, 0)
        assert bpf.decide(fresh, *call) == bpf.decide(kept, *call), call


@pytest.mark.parametrize("name", ["x86_64.bpf", "SHA256SUMS"])
def test_another_filter_is_not_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that is not the one of the hash, or is missing, starts no sandbox."""
    for path in (SUMS, SUMS.with_name("x86_64.bpf")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("picod.seccomp._FOLDER", tmp_path)
    sums = tmp_path / "SHA256SUMS"
    assert load.__wrapped__("x86_64", sums)
    changed = bytearray((tmp_path / name).read_bytes())
    changed[-20] ^= 1
    (tmp_path / name).write_bytes(changed)
    with pytest.raises(IsolationError):
        load.__wrapped__("x86_64", sums)
    (tmp_path / name).unlink()
    with pytest.raises(IsolationError):
        load.__wrapped__("x86_64", sums)


def test_a_machine_without_a_filter_is_refused() -> None:
    """Where no filter was built for the machine, bwrap starts nothing."""
    with pytest.raises(IsolationError) as caught:
        load("riscv64")
    assert "gvisor" in caught.value.hint


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_calls_that_are_refused(architecture: str) -> None:
    """Rights that nobody needs are refused, and clone3 is not there at all."""
    for name in ("keyctl", "bpf", "userfaultfd", "perf_event_open", "io_uring_setup"):
        assert asked(architecture, name) == PERM
    for name in ("mount", "fsopen", "unshare", "setns"):
        assert asked(architecture, name) == PERM
    assert asked(architecture, "clone3") == NOSYS
    assert asked(architecture, "read") == asked(architecture, "execve") == bpf.ALLOW


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(above=st.integers(0, 2**32 - 1), other=st.integers(0, 2**16))
def test_arguments_are_read_as_the_kernel_does(
    architecture: str, above: int, other: int
) -> None:
    """Bits that the kernel does not look at change nothing."""
    high = above << 32
    for request in (0x5412, 0x541C):
        assert asked(architecture, "ioctl", other, high | request) == PERM
    assert asked(architecture, "ioctl", other, high | 0x5401) == bpf.ALLOW
    for family in (socket.AF_VSOCK, socket.AF_PACKET, socket.AF_NETLINK, 38, 44):
        assert asked(architecture, "socket", high | family, 1, 0) == FAMILY
    assert asked(architecture, "socket", high | socket.AF_UNIX, 1, 0) == bpf.ALLOW


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(flags=st.integers(0, 2**64 - 1))
def test_no_clone_makes_a_namespace(architecture: str, flags: int) -> None:
    """Threads and processes are made, with whatever flags, but no namespaces."""
    wanted = PERM if flags & 0x7E02_0000 else bpf.ALLOW
    assert asked(architecture, "clone", flags) == wanted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(
    family=st.sampled_from([2, 10]),
    kind=st.integers(0, 2**32 - 1),
    protocol=st.integers(0, 2**32 - 1) | st.integers(0, 300),
)
def test_sockets_of_the_internet(
    architecture: str, family: int, kind: int, protocol: int
) -> None:
    """There are TCP and UDP, and nothing else that a kernel module would serve."""
    known = {1: (0, 6), 2: (0, 17)}.get(kind & 15, ())
    wanted = bpf.ALLOW if protocol in known else NOSYS
    assert asked(architecture, "socket", family, kind, protocol) == wanted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_devices_and_personalities(architecture: str) -> None:
    """FIFOs can be made and devices cannot; only the machine's own ABI is there."""
    for kind, made in ((0o010000, True), (0o140000, True), (0o020000, False)):
        verdict = asked(architecture, "mknodat", 0, 0, kind | 0o777)
        assert (verdict == bpf.ALLOW) is made
    assert asked(architecture, "personality", 2**32 - 1) == bpf.ALLOW
    assert asked(architecture, "personality", 0x0040000) == NOSYS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_foreign_interfaces(architecture: str) -> None:
    """Calls by the numbers of another ABI (i386, x32, 32-bit ARM) do not exist."""
    program = load(architecture)
    own = bpf.ARCHITECTURES[architecture]
    for machine in (0x4000_0003, 0x4000_0028, *bpf.ARCHITECTURES.values()):
        for number in NUMBERS:
            if machine != own:
                assert bpf.decide(program, machine, number) == NOSYS
    for number in NUMBERS:
        assert bpf.decide(program, own, 0x4000_0000 | number) == NOSYS


def test_the_rules_do_not_contradict_themselves() -> None:
    """No call stands in two lists: what is refused nowhere is allowed."""
    partly = {name for name, _ in (*SOME, *REFUSED_SOME)}
    assert not ALLOWED & REFUSED
    assert not partly & (ALLOWED | REFUSED)
