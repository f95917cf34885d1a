"""Each fence of bwrap, taken away: what it stops then succeeds, and is seen to."""

from __future__ import annotations

import ctypes
import importlib.util
import marshal
import os
import socket
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from picod import _bundle, _bwrap
from picod.inside import kernel
from tests.isolation.hosts import UIDS
from tests.isolation.test_escape import PRELUDE
from tests.isolation.weakened import take_away
from tests.picod.sandboxes import python, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.picod.sandboxes import Result

OPENING = """
for pid in others():
    for number in range(12):
        attempt(f"open fd {number} of {pid}",
                lambda: os.open(f"/proc/{pid}/fd/{number}", os.O_WRONLY))
    attempt(f"mem of {pid}", lambda: open(f"/proc/{pid}/mem", "rb"))
"""


async def tried(code: str) -> Result:
    """Try *code* in a sandbox that lacks something."""
    async with sandbox(uid=UIDS[0]) as runner:
        return await python(runner, PRELUDE + code, timeout=30)


async def test_without_hiding_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that is dumpable is open: its frames could be forged."""
    monkeypatch.setattr("picod._begin.bundle", _open_bundle)
    assert b"ESCAPED open fd" in (await tried(OPENING)).stdout


def _open_bundle() -> bytes:
    """Return the runner's code without what keeps others out of its memory."""
    modules = []
    for name in _bundle._MODULES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        if name == kernel.__name__:
            text += "\ndef hide(): pass\n"
        modules.append((name, text))
    parts = (b"", b"", marshal.dumps(modules, 4), marshal.dumps([], 4))
    lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
    return b"".join((b"none", lengths, *parts))


async def test_without_being_process_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bwrap's own process 1 has the runner's socket, and is open to the code."""
    take_away("--as-pid-1", monkeypatch)
    assert b"ESCAPED" in (await tried(OPENING)).stdout


async def test_without_a_namespace_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """With further namespaces, the code could become root in one of its own."""
    take_away("--disable-userns", monkeypatch)
    take_away("seccomp", monkeypatch)
    code = 'syscall("unshare", libc.unshare(0x10000000))'
    assert b"ESCAPED" in (await tried(code)).stdout


REACHING = {
    "net": 'attempt("dial", lambda: socket.create_connection(("127.0.0.1", PORT), 2))',
    "pid": 'attempt("see", lambda: open("/proc/HOST/cmdline").read())',
    "ipc": 'attempt("shared memory", lambda: done(libc.shmget(KEY, 1, 0)))',
}


@pytest.mark.parametrize("kind", REACHING)
@pytest.mark.parametrize("weakened", [False, True])
async def test_without_a_namespace(
    kind: str,
    weakened: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ports, processes and shared memory of the host are reached without it alone."""
    if weakened:
        _share(kind, monkeypatch)
    with closing(socket.create_server(("127.0.0.1", 0))) as server, _shared() as key:
        code = REACHING[kind].replace("PORT", str(server.getsockname()[1]))
        code = code.replace("HOST", str(os.getpid())).replace("KEY", str(key))
        result = await tried(code)
    assert (b"ESCAPED" in result.stdout) is weakened, result


def _share(kind: str, patch: pytest.MonkeyPatch) -> None:
    """Leave the namespace *kind* out; process 1 needs one of processes."""
    dropped = {"--unshare-all", *(["--as-pid-1"] if kind == "pid" else [])}
    kept = [option for option in _bwrap._FENCES if option not in dropped]
    kinds = {"user", "ipc", "uts", "cgroup", "net", "pid"} - {kind}
    patch.setattr(_bwrap, "_FENCES", (*kept, *(f"--unshare-{k}" for k in kinds)))


@contextmanager
def _shared() -> Iterator[int]:
    """Hold a System V segment that everybody may attach to; give its key."""
    libc = ctypes.CDLL(None)
    key = 0x4713_0000 + os.getpid() % 0xFFFF
    segment = libc.shmget(key, 4096, 0o1666)
    try:
        yield key
    finally:
        libc.shmctl(segment, 0, None)
