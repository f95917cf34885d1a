"""Ways out of a sandbox, each tried from inside: none may succeed."""

from __future__ import annotations

import os
import re
import socket
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from picod._code import NewContext
from picod._errors import MissingFileError, PathOutsideWorkspaceError
from picod._runner import Command, Output
from tests.isolation.hosts import SECRET, UIDS, planted
from tests.isolation.levels import LEVELS, isolated
from tests.picod.cells import cell
from tests.picod.sandboxes import python, read, run, singly, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from picod._runner import Runner
    from tests.isolation.hosts import Planted
    from tests.picod.sandboxes import Result

PRELUDE = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def others():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()
            and int(name) != os.getpid()]
def attempt(what, how):
    try:
        result = how()
    except (OSError, ValueError) as error:
        print("refused", what, error)
    else:
        print("ESCAPED", what, repr(result)[:200])
def done(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "no")
    return result
def put(path, data):
    return os.write(os.open(path, os.O_WRONLY), data)
def syscall(what, result):
    print("refused" if result < 0 else "ESCAPED", what, os.strerror(ctypes.get_errno()))
"""


@pytest.fixture(autouse=True)
def _secret_in_the_environment() -> Iterator[None]:
    """Hold the secret in our own environment, as a service may hold one."""
    os.environb[b"CUBEMESH_PLANTED"] = SECRET.encode()
    yield
    del os.environb[b"CUBEMESH_PLANTED"]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def runner(level: str) -> AsyncIterator[Runner]:
    async with isolated(level) as made:
        yield made


@pytest.fixture
def secrets() -> Iterator[Planted]:
    with planted() as made:
        yield made


async def attempts(runner: Runner, code: str) -> Result:
    """Try *code* as a command and in a context.

    It must have tried something, and escaped by nothing.
    """
    ran = await cell(runner, PRELUDE + code, timeout=30)
    assert ran.fault is None, ran.fault
    result = await python(runner, PRELUDE + code, timeout=30)
    assert result.code == 0, result.stderr
    for stdout in (ran.stdout, result.stdout):
        assert b"refused" in stdout
        assert b"ESCAPED" not in stdout, stdout
        assert SECRET.encode() not in stdout
    assert runner.fault is None
    return result


# -- the runner itself


async def test_forging_frames(runner: Runner, level: str) -> None:
    """No descriptor of the runner or a keeper can be opened to write frames."""
    # gVisor's kernel tells anybody how many there are, and of none what it is.
    told = "(os.listdir, lambda path: open(path + 'info/0').read())"
    await attempts(
        runner,
        f"""
for look in {told if level == "bwrap" else ()}:
    for pid in others():
        attempt(f"fds of {{pid}}", lambda: look(f"/proc/{{pid}}/fd"))
"""
        """
for pid in others():
    for number in range(12):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            attempt(f"open fd {number} of {pid}",
                    lambda: os.open(f"/proc/{pid}/fd/{number}", flags))
        attempt(f"what fd {number} of {pid} is",
                lambda: os.readlink(f"/proc/{pid}/fd/{number}"))
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:  # it has just ended by itself
        continue
    for number in range(12):
        syscall(f"pidfd_getfd {number} of {pid}", libc.syscall(438, pidfd, number, 0))
""",
    )
    assert (await run(runner, "true")).code == 0


async def test_opening_memory(runner: Runner) -> None:
    """No memory of the runner or a keeper can be read, written or traced."""
    await attempts(
        runner,
        """
for pid in others():
    for name in ("mem", "maps", "environ", "auxv", "syscall", "stack", "pagemap"):
        attempt(f"{name} of {pid}", lambda: open(f"/proc/{pid}/{name}", "rb").read(100))
    attempt(f"write mem of {pid}", lambda: open(f"/proc/{pid}/mem", "wb"))
    for request in (16, 0x4206):
        syscall(f"ptrace {request} of {pid}", libc.ptrace(request, pid, 0, 0))
    data = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(data), 8)
    syscall(f"process_vm_readv of {pid}", libc.process_vm_readv(
        pid, ctypes.byref(vector), ctypes.c_ulong(1),
        ctypes.byref(vector), ctypes.c_ulong(1), ctypes.c_ulong(0)))
""",
    )


async def test_inherited_descriptors(runner: Runner) -> None:
    """Nothing but 0, 1 and 2 is open in a command, and none of them leads to us."""
    code = "for n in 0 1 2 3 4 5 6 7 8 9; do echo $n $(readlink /proc/$$/fd/$n); done"
    result = await run(runner, "sh", "-c", f"{code} | grep ' .'")
    lines = result.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    assert not [line for line in lines if "socket" in line]


async def test_inherited_descriptors_of_an_interpreter(runner: Runner) -> None:
    """A context has 0, 1, 2 and its own socket; nothing that it starts has the last."""
    code = """
import os, subprocess
shown = {}
for name in os.listdir("/proc/self/fd"):
    try: shown[int(name)] = os.readlink("/proc/self/fd/" + name).split(":")[0]
    except OSError: pass
print(sorted(shown.items()))
print(sorted(os.listdir("/proc/self/fd"))[0])
subprocess.run(["sh", "-c", "ls /proc/self/fd; true"], close_fds=False)
"""
    ran = await cell(runner, code)
    own, _, *inherited = ran.stdout.decode().splitlines()
    assert own.startswith("[(0, '/dev/null'), (1, 'pipe'), (2, 'pipe'), (")
    assert own.count("(") == 4
    assert own.endswith(", 'socket')]")
    assert inherited == ["0", "1", "2", "3"]  # 3: the folder that ls reads


async def test_another_context(runner: Runner) -> None:
    """Memory and descriptors of one context are closed to another, and to commands."""
    other = await runner.code.create(NewContext("python"))
    await cell(runner, f"secret = {SECRET!r}[::-1][::-1]", context=other.name)
    code = """
for pid in others():
    for number in (0, 1023, 4095):
        attempt(f"socket {number} of {pid}",
                lambda: os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR))
    attempt(f"mem of {pid}", lambda: open(f"/proc/{pid}/mem", "rb"))
    attempt(f"maps of {pid}", lambda: open(f"/proc/{pid}/maps").read())
    attempt(f"environ of {pid}", lambda: open(f"/proc/{pid}/environ").read())
    syscall(f"attach to {pid}", libc.ptrace(16, pid, 0, 0))
    for number in (0, 1, 2, 3, 1023, 4095):
        syscall(f"fd {number} of {pid}",
                libc.syscall(438, os.pidfd_open(pid), number, 0))
"""
    await attempts(runner, code)
    assert (await cell(runner, "secret", context=other.name)).text == repr(SECRET)


async def test_poisoning_the_nursery(runner: Runner) -> None:
    """What code does to itself and its parents does not reach the next context."""
    code = """
import builtins, gc, os, sys, json
builtins.len = json.loads = lambda *_: "poison"
sys.path.insert(0, "/tmp/poison"); os.environ["POISON"] = "poison"
os.makedirs("/tmp/poison", exist_ok=True)
for name in ("decimal", "sitecustomize", "usercustomize", "traceback", "linecache"):
    open(f"/tmp/poison/{name}.py", "w").write("raise SystemExit('poison')")
for pid in (os.getppid(), 1):
    try: os.kill(pid, 10)
    except OSError: pass
"""
    await cell(runner, code)
    other = await runner.code.create(NewContext("python"))
    code = "import decimal, json, os; len('four'), json.loads('1'), dict(os.environ)"
    ran = await cell(runner, code, context=other.name)
    assert ran.text
    assert ran.text.startswith("(4, 1, ")
    assert "poison" not in ran.text


async def test_ending_the_runner(runner: Runner) -> None:
    """No signal from inside ends or stops process 1."""
    await python(runner, "import os\nfor n in range(1, 65): os.kill(1, n)", timeout=10)
    assert (await run(runner, "true")).code == 0
    assert runner.fault is None


async def test_the_environment_of_services(runner: Runner) -> None:
    """No process in sight has a secret of the host in its environment."""
    code = "import os; print(os.environ, open('/proc/1/cmdline').read())"
    result = await python(runner, code)
    assert SECRET.encode() not in result.stdout
    await attempts(
        runner,
        "for pid in others():"
        ' attempt("environ", lambda: open(f"/proc/{pid}/environ").read())',
    )


# -- the host's files


async def test_planted_keys(runner: Runner, secrets: Planted) -> None:
    """Keys on the host cannot be reached by any path, whatever their mode."""
    paths = [str(secrets.closed), str(secrets.public), "/etc/shadow", "/root/.profile"]
    await attempts(
        runner,
        f"""
for path in {paths!r}:
    for root in ("", "/proc/self/root", "/proc/1/root", "/proc/self/cwd/..",
                 "/workspace/../..", "/.old", "/oldroot", "/newroot"):
        attempt(root + path, lambda: open(root + path).read())
""",
    )


async def test_following_links_out(runner: Runner, secrets: Planted) -> None:
    """Neither the code nor the runner on its behalf follows a symlink to the host."""
    key, folder = secrets.public, secrets.public.parent
    code = f"ln -s {key} key; cat key; ln -s {folder} dir; cat dir/*"
    result = await run(runner, "sh", "-c", code)
    assert SECRET.encode() not in result.stdout
    for path in (b"key", b"dir/public.pem"):
        with pytest.raises((PathOutsideWorkspaceError, MissingFileError)):
            await read(runner, path)


async def test_folders_of_the_host_are_empty(runner: Runner) -> None:
    """Nothing of the host's /home, /root, /run, /var and the like is there."""
    code = "ls -A / | grep -vx sys; ls -A /home /root /run /opt /srv /mnt /boot /var"
    result = await run(runner, "sh", "-c", code)
    top, *folders = result.stdout.decode().split("/", 1)
    assert set(top.split()) <= {
        *("bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc"),
        *("root", "run", "sbin", "tmp", "usr", "var", "workspace"),
    }
    devices = await run(runner, "sh", "-c", "find /sys -type f | xargs cat | wc -c")
    assert int(devices.stdout) < 100  # gVisor's own, which is as good as empty
    shown = "/" + "/".join(folders)
    # Both names there are links into memory of the sandbox's own.
    expected = "/home: /root: /run: secrets /var: tmp"
    assert shown.split() == expected.split()
    etc = await run(runner, "ls", "/etc")
    assert set(etc.stdout.decode().split()) <= {
        *("alternatives", "group", "hosts", "ld.so.cache", "localtime"),
        *("nsswitch.conf", "passwd", "pki", "resolv.conf", "ssl"),
    }


async def test_nothing_of_the_view_is_writable(runner: Runner) -> None:
    """Only the workspace, /tmp and /dev/shm take files."""
    code = """
import os
written = []
for root, folders, files in os.walk("/"):
    if root.startswith(("/proc", "/usr/share", "/usr/lib/python3")):
        folders.clear(); continue
    try:
        path = os.path.join(root, ".probe")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY)); os.unlink(path)
        written.append(root)
    except OSError:
        pass
print(sorted(written))
"""
    result = await python(runner, code)
    assert result.stdout.decode().strip() == "['/dev/shm', '/tmp', '/workspace']"


async def test_planted_keys_through_devices(runner: Runner, level: str) -> None:
    """No device is there beyond the harmless ones, and none can be made."""
    # Those of gVisor's own kernel: there is no device of the host behind them.
    virtual = {"/dev/fuse", "/dev/net/tun"} if level == "gvisor" else set()
    listed = await run(runner, "sh", "-c", "find /dev -type b -o -type c | sort")
    assert (
        set(listed.stdout.decode().split())
        <= {
            *("/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom"),
            *("/dev/zero", "/dev/pts/ptmx"),
        }
        | virtual
    )
    await attempts(
        runner,
        """
for where in ("/workspace/d", "/tmp/d", "/dev/shm/d"):
    for kind in (0o020000, 0o060000):
        attempt(f"mknod {where}",
                lambda: os.mknod(where, 0o600 | kind, os.makedev(1, 1)))
for name in ("/dev/mem", "/dev/kmem", "/dev/kvm", "/dev/fuse", "/dev/net/tun",
             "/proc/kcore", "/proc/kmsg"):
    attempt(name, lambda: open(name, "rb").read(1))
""",
    )


# -- rights


async def test_gaining_rights(runner: Runner, level: str) -> None:
    """No user namespace, mount, chroot, setuid or capability is to be had."""
    if level == "bwrap":  # gVisor keeps the number, and does not go by it
        await attempts(runner, 'attempt("nice", lambda: os.nice(-10))')
    result = await attempts(
        runner,
        """
for flags in (0x10000000, 0x00020000, 0x10020000, 0x40000000, 0x20000000):
    syscall(f"unshare {flags:x}", libc.unshare(flags))
syscall("mount tmpfs", libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
syscall("bind mount", libc.mount(b"/proc", b"/tmp", None, 4096, None))
syscall("remount", libc.mount(None, b"/usr", None, 32 | 4096, None))
syscall("umount", libc.umount2(b"/proc", 2))
syscall("pivot_root", libc.syscall(155, b"/tmp", b"/tmp"))
attempt("chroot", lambda: os.chroot("/tmp"))
for uid in (0, 1, 999, 65534, 20011):
    attempt(f"setuid {uid}", lambda: os.setuid(uid))
    attempt(f"setgid {uid}", lambda: os.setgid(uid))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("hostname", lambda: socket.sethostname("x"))
for name in ("user", "mnt", "net", "pid", "uts", "ipc", "cgroup", "time"):
    for pid in (1, "self"):
        attempt("setns", lambda: done(
            libc.setns(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), 0)))
attempt("sysctl", lambda: put("/proc/sys/kernel/hostname", b"x"))
attempt("more namespaces",
        lambda: put("/proc/sys/user/max_user_namespaces", b"100"))
attempt("uid_map", lambda: put("/proc/self/uid_map", b"0 0 1"))
attempt("gid_map", lambda: put("/proc/self/gid_map", b"0 0 1"))
""",
    )
    assert b"ESCAPED" not in result.stdout
    status = await run(runner, "cat", "/proc/self/status")
    fields = dict(re.findall(r"(\w+):\t(.*)", status.stdout.decode()))
    sets = ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")
    assert {fields[name] for name in sets} == {"0" * 16}
    assert fields.get("NoNewPrivs", "1") == "1"  # gVisor has it, and does not tell


async def test_set_user_id_programs(runner: Runner) -> None:
    """Set-user-ID programs of the host and own ones give nobody another user."""
    code = (
        "cp /usr/bin/id ./id; chmod 4755 ./id; ./id -u; ./id -ru;"
        "unshare -Ur id; su -c id </dev/null; sudo -n id"
    )
    result = await run(runner, "sh", "-c", code)
    assert result.stdout == b"1000\n1000\n"


async def test_who_the_code_is_on_the_host(runner: Runner) -> None:
    """On the host the code is the sandbox's own user, never root, in no group."""
    wanted = UIDS[0] or os.getuid()
    async with aclosing(singly(runner.execute(Command(("sleep", "4713.1"))))) as events:
        await anext(events)
        # In gVisor the command is no process of the host; its kernel is.
        family = psutil.Process(runner.pid)
        for process in (family, *family.children(recursive=True)):
            assert set(process.uids()) == {wanted}
            if UIDS[0]:
                assert set(process.gids()) == {wanted}
                assert set(_groups(process.pid)) <= {wanted}


def _groups(pid: int) -> list[int]:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("Groups:"))
    return [int(group) for group in line.split()[1:]]


# -- the neighbours


async def test_host_processes(runner: Runner) -> None:
    """Only processes of the own sandbox are to be seen or signalled."""
    result = await run(runner, "sh", "-c", "cat /proc/[0-9]*/comm")
    assert set(result.stdout.split()) <= {b"python3", b"sh", b"cat"}
    ours = {os.getpid(), os.getppid(), runner.pid} - set(range(100))
    await attempts(
        runner, f'for n in {ours}: attempt(f"signal {{n}}", lambda: os.kill(n, 0))'
    )


async def test_another_sandbox(runner: Runner, level: str) -> None:
    """Files, processes, sockets, memory and ports of another are out of reach."""
    serve = """
import os, socket, subprocess, sys, time
open("/tmp/neighbour", "w").write("neighbour-secret")
open("/workspace/neighbour", "w").write("neighbour-secret")
open("/dev/shm/neighbour", "w").write("neighbour-secret")
sockets = []
for address in ("\\0neighbour", "/tmp/neighbour.sock"):
    s = socket.socket(socket.AF_UNIX); s.bind(address); s.listen(); sockets.append(s)
s = socket.socket(); s.bind(("127.0.0.1", 47130)); s.listen(); sockets.append(s)
print("ready", flush=True)
time.sleep(100)
"""
    async with isolated(level, uid=UIDS[1]) as other:
        command = Command(("/usr/bin/python3", "-c", serve))
        async with aclosing(other.execute(command)) as events:
            async for event in events:
                if isinstance(event, Output):
                    assert event.data == b"ready\n"
                    break
            await attempts(
                runner,
                """
for path in ("/tmp/neighbour", "/workspace/neighbour", "/dev/shm/neighbour"):
    attempt(path, lambda: open(path).read())
for address in ("\\0neighbour", "/tmp/neighbour.sock"):
    attempt(address, lambda: socket.socket(socket.AF_UNIX).connect(address))
attempt("port", lambda: socket.create_connection(("127.0.0.1", 47130), 1))
""",
            )
            seen = await run(runner, "sh", "-c", "cat /proc/[0-9]*/cmdline")
            assert b"neighbour" not in seen.stdout


async def test_two_sandboxes_of_one_user(level: str) -> None:
    """Even under one user of the host, sandboxes see nothing of each other."""
    async with isolated(level) as one, isolated(level) as two:
        await write(one, b"secret", SECRET.encode())
        code = "cat secret; ls -A /workspace /tmp; kill -9 -1"
        result = await run(two, "sh", "-c", code)
        assert SECRET.encode() not in result.stdout
        assert (await run(one, "true")).code == 0


async def test_the_hosts_network(runner: Runner) -> None:
    """Only an own loopback is there: no host port, no abstract socket, no outside."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        closing(socket.socket(socket.AF_UNIX)) as abstract,
    ):
        abstract.bind("\0cubemesh-4713")
        abstract.listen()
        port = server.getsockname()[1]
        await attempts(
            runner,
            f"""
for host, port in (("127.0.0.1", {port}), ("10.0.0.1", 80), ("169.254.169.254", 80),
                   ("::1", {port})):
    attempt(f"{{host}}:{{port}}", lambda: socket.create_connection((host, port), 2))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0cubemesh-4713"))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
attempt("udp", lambda: datagram.sendto(b"x", ("8.8.8.8", 53)))
attempt("name", lambda: socket.getaddrinfo("example.com", 80))
""",
        )
    links = await run(runner, "sh", "-c", "sed -n '3,$s/:.*//p' /proc/net/dev")
    assert links.stdout.split() == [b"lo"]


async def test_terminal_of_the_service(runner: Runner) -> None:
    """There is no terminal to push input into."""
    await attempts(
        runner,
        """
import fcntl
attempt("tty", lambda: os.open("/dev/tty", os.O_RDWR))
for n in (0, 1, 2):
    attempt("TIOCSTI", lambda: fcntl.ioctl(n, 0x5412, b"x"))
""",
    )
