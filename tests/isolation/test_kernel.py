"""What code may ask of the kernel itself; each refusal is shown to be able to fail."""

from __future__ import annotations

import pytest

from tests.isolation.hosts import UIDS
from tests.isolation.levels import each_level, isolated
from tests.isolation.test_escape import PRELUDE, attempts
from tests.isolation.weakened import take_away
from tests.picod.sandboxes import python, sandbox

# what is tried, which prints ESCAPED where no filter is
CALLS = {
    "keyrings": """
syscall("keyctl", libc.syscall(250, 0, -3, 0))
syscall("add_key", libc.syscall(248, b"user", b"name", b"x", 1, -2))
syscall("request_key", libc.syscall(249, b"user", b"name", 0, -2))
""",
    "io_uring": """
room = ctypes.create_string_buffer(200)
syscall("io_uring_setup", libc.syscall(425, 4, room))
""",
    "another machine": """
syscall("personality", libc.personality(0x0040000))
syscall("modify_ldt", libc.syscall(154, 0, ctypes.create_string_buffer(99), 99))
""",
    "sockets of the kernel": """
for family, kind, protocol in ((16, 3, 0), (16, 3, 6), (16, 3, 9), (38, 5, 0),
                               (40, 1, 0), (17, 3, 3), (2, 1, 262), (2, 1, 132),
                               (2, 2, 136)):
    attempt(f"socket {family} {kind} {protocol}",
            lambda: socket.socket(family, kind, protocol))
""",
    "input for a terminal": """
import fcntl, pty
master, slave = pty.openpty()
os.setsid() if os.getsid(0) != os.getpid() else None
fcntl.ioctl(slave, 0x540E, 0)
attempt("TIOCSTI", lambda: fcntl.ioctl(slave, 0x5412, b"x"))
for request in (0x5412, 0xFFFFFFFF00005412, 0x100005412):
    syscall(f"TIOCSTI {request:x}", libc.syscall(
        ctypes.c_long(16), ctypes.c_long(slave), ctypes.c_ulong(request), b"x"))
""",
    "marked memory": """
syscall("memfd_secret", libc.syscall(447, 0))
syscall("userfaultfd", libc.syscall(323, 1))
syscall("pidfd_getfd", libc.syscall(438, os.pidfd_open(os.getpid()), 1, 0))
syscall("kcmp", libc.syscall(312, os.getpid(), os.getpid(), 0, 1, 1))
""",
    "namespaces": """
child = libc.syscall(56, 0x10000000 | 17, None, None, None, None)
if child == 0:
    os._exit(0)
syscall("clone with a namespace", child)
child = libc.syscall(435, ctypes.create_string_buffer(64), 64)
if child == 0:
    os._exit(0)
syscall("clone3", child)
syscall("unshare", libc.unshare(0x10000000))
syscall("fsopen", libc.syscall(430, b"tmpfs", 0))
""",
}
# These fail whatever the filter says; it is one more lock.
RIGHTS = """
room = ctypes.create_string_buffer(120)
syscall("bpf", libc.syscall(321, 0, room, 120))
syscall("perf_event_open", libc.syscall(298, room, 0, -1, -1, 0))
syscall("syslog", libc.klogctl(3, ctypes.create_string_buffer(99), 99))
syscall("reboot", libc.syscall(169, 0xfee1dead, 672274793, 0, 0))
syscall("swapon", libc.swapon(b"/workspace/x", 0))
syscall("acct", libc.acct(b"/workspace/x"))
syscall("init_module", libc.syscall(175, b"", 0, b""))
syscall("kexec_load", libc.syscall(246, 0, 0, None, 0))
syscall("settimeofday", libc.settimeofday(ctypes.create_string_buffer(16), None))
syscall("iopl", libc.syscall(172, 3))
syscall("quotactl", libc.quotactl(0x80000700, b"/dev/x", 0, None))
syscall("open_by_handle_at", libc.syscall(304, 0, ctypes.create_string_buffer(99), 0))
syscall("vhangup", libc.vhangup())
"""


@each_level
async def test_calls_that_are_filtered(level: str) -> None:
    """Interfaces of the kernel that programs do not need are not there."""
    async with isolated(level) as runner:
        for tried in CALLS.values():
            await attempts(runner, tried)


@each_level
async def test_calls_that_need_rights(level: str) -> None:
    """Nobody inside has a right over the machine."""
    async with isolated(level) as runner:
        await attempts(runner, RIGHTS)


@pytest.mark.parametrize("tried", CALLS)
async def test_it_is_the_filter(tried: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the filter these very calls succeed."""
    take_away("seccomp", monkeypatch)
    if tried == "namespaces":
        take_away("--disable-userns", monkeypatch)
    async with sandbox(uid=UIDS[0]) as runner:
        result = await python(runner, PRELUDE + CALLS[tried], timeout=30)
    assert b"ESCAPED" in result.stdout, result


DEBUGGING = """
import ctypes, os, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in (
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs "
        "eflags rsp ss fs gs ds es fsb gsb").split()]
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    libc.getppid()
    os._exit(0)
os.waitpid(child, 0)
print("traced")
registers = Registers()
while True:
    libc.ptrace(24, child, 0, 0)  # to the next system call
    if os.WIFEXITED(os.waitpid(child, 0)[1]):
        break
    libc.ptrace(12, child, 0, ctypes.byref(registers))
    if registers.orig_rax == 110:  # getppid becomes unshare(CLONE_NEWUSER)
        registers.orig_rax, registers.rdi = 272, 0x10000000
        libc.ptrace(13, child, 0, ctypes.byref(registers))
        libc.ptrace(24, child, 0, 0)
        os.waitpid(child, 0)
        libc.ptrace(12, child, 0, ctypes.byref(registers))
        print(ctypes.c_longlong(registers.rax).value)
        break
os.kill(child, 9)
"""


@pytest.mark.skipif("os.uname().machine != 'x86_64'", reason="registers of x86_64")
async def test_debugging_is_no_way_around_the_filter() -> None:
    """A program may trace its own child, and what it makes of a call is filtered."""
    async with sandbox(uid=UIDS[0]) as runner:
        result = await python(runner, DEBUGGING, timeout=30)
    assert result.stdout.split() == [b"traced", b"-1"], result.stderr
