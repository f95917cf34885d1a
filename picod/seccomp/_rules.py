"""What code in a sandbox may ask of the kernel: a list of what is allowed.

Whatever is not listed does not exist (`ENOSYS`), so that a C library tries an older
way and a newer kernel opens nothing. What programs know well and must not have is
refused (`EPERM`), so that they say so. Nobody is killed.

Beside this list, Docker's default allows `io_setup` and its kin, `adjtimex`,
`fanotify_mark`, `memfd_secret`, `modify_ldt`, `name_to_handle_at`, `process_mrelease`,
`remap_file_pages`, every request of `ioctl`, and every family of sockets but one or
two. Flatpak's list tells what is forbidden instead; all of it is refused or unknown
here, but for `ptrace` and `process_vm_*`, which Docker allows as well.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

__all__ = [
    "ALLOWED",
    "REFUSED",
    "REFUSED_FAMILIES",
    "REFUSED_SOME",
    "SOME",
    "Test",
]

_WORD = 0xFFFF_FFFF  # the kernel reads 32 bits of these arguments, whatever is above


@dataclass(frozen=True, slots=True)
class Test:
    """Argument *number*, as far as *mask* reaches, is *value*."""

    number: int
    value: int
    mask: int = _WORD


_FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3
    faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchown fchownat
    fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs
    fsync ftruncate futimesat getcwd getdents getdents64 getxattr inotify_add_watch
    inotify_init inotify_init1 inotify_rm_watch lchown lgetxattr link linkat listxattr
    llistxattr lremovexattr lseek lsetxattr lstat memfd_create mkdir mkdirat newfstatat
    open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv removexattr rename renameat renameat2
    rmdir sendfile setxattr splice stat statfs statx symlink symlinkat sync
    sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes
    vmsplice write writev
"""
_MEMORY = """
    brk madvise membarrier mincore mlock mlock2 mlockall mmap mprotect mremap msync
    munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
"""
# `ptrace` and its kin are here: code may debug itself. The runner and its keepers are
# closed to them as to /proc/*/mem, which no filter can refuse (tests/isolation).
_PROCESSES = """
    arch_prctl capget capset execve execveat exit exit_group fork get_robust_list
    getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority
    getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set
    kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open
    pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp set_robust_list
    set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid
    setresgid setresuid setreuid setrlimit setsid setuid sigaltstack sysinfo tgkill
    times tkill uname vfork wait4 waitid
"""
_WAITING = """
    alarm clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1
    epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 futex futex_waitv
    getitimer getrandom gettimeofday nanosleep pause poll ppoll pselect6
    restart_syscall select setitimer signalfd signalfd4 time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime
"""
_TALKING = """
    accept accept4 bind connect getpeername getsockname getsockopt listen
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl
    msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget semop semtimedop
    sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown
"""

ALLOWED = frozenset(f"{_FILES} {_MEMORY} {_PROCESSES} {_WAITING} {_TALKING}".split())
"""Calls that are allowed whatever their arguments are."""

_REFUSED = """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module
    fanotify_init fanotify_mark finit_module fsconfig fsmount fsopen fspick
    get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm
    iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages
    modify_ldt mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl
    open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root
    process_madvise quotactl quotactl_fd reboot remap_file_pages request_key
    set_mempolicy setdomainname sethostname setns settimeofday swapoff swapon syslog
    umount2 unshare uselib userfaultfd vhangup
"""
REFUSED = frozenset(_REFUSED.split())
"""Calls that are refused with EPERM; `clone3` hides its flags and is unknown."""

_NAMESPACES = (
    0x0002_0000,  # CLONE_NEWNS
    0x0200_0000,  # CLONE_NEWCGROUP
    0x0400_0000,  # CLONE_NEWUTS
    0x0800_0000,  # CLONE_NEWIPC
    0x1000_0000,  # CLONE_NEWUSER
    0x2000_0000,  # CLONE_NEWPID
    0x4000_0000,  # CLONE_NEWNET
)
_KIND = 0o170000  # of a file's mode
_FILE_KINDS = (0, 0o100000, 0o010000, 0o140000)  # regular, FIFO, socket; no device
_KIND_OF_SOCKET = 0xF  # above stand SOCK_NONBLOCK and SOCK_CLOEXEC

_IOCTLS = (
    *(0x5401, 0x5402, 0x5403, 0x5404),  # TCGETS, TCSETS, TCSETSW, TCSETSF
    *(0x802C_542A, 0x402C_542B, 0x402C_542C, 0x402C_542D),  # the same of 2020
    *(0x5409, 0x540A, 0x540B, 0x5425),  # TCSBRK, TCXONC, TCFLSH, TCSBRKP
    *(0x540C, 0x540D, 0x5440),  # TIOCEXCL, TIOCNXCL, TIOCGEXCL
    *(0x540E, 0x5422),  # TIOCSCTTY, TIOCNOTTY
    *(0x540F, 0x5410, 0x5429),  # TIOCGPGRP, TIOCSPGRP, TIOCGSID
    *(0x5411, 0x541B),  # TIOCOUTQ, FIONREAD
    *(0x5413, 0x5414),  # TIOCGWINSZ, TIOCSWINSZ
    *(0x5420, 0x8004_5430, 0x4004_5431, 0x8004_5439, 0x5441),  # of pseudo-terminals
    *(0x5421, 0x5450, 0x5451, 0x5452),  # FIONBIO, FIONCLEX, FIOCLEX, FIOASYNC
    *(0x4004_9409, 0x4020_940D, 0xC018_9436),  # FICLONE, FICLONERANGE, FIDEDUPERANGE
    *(0x8008_6601, 0xC020_660B),  # FS_IOC_GETFLAGS, FS_IOC_FIEMAP
    *(0x8903, 0x8904, 0x8905),  # FIOGETOWN, SIOCGPGRP, SIOCATMARK
    *(0x8910, 0x8912, 0x8913, 0x8915),  # SIOCGIFNAME, -CONF, -FLAGS, -ADDR
    *(0x8919, 0x891B, 0x8921, 0x8927, 0x8933),  # broadcast, mask, MTU, hardware, index
)
_INJECTING = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

SOME: tuple[tuple[str, tuple[Test, ...]], ...] = (
    ("clone", (Test(0, 0, mask=sum(_NAMESPACES)),)),
    *(("mknod", (Test(1, kind, mask=_KIND),)) for kind in _FILE_KINDS),
    *(("mknodat", (Test(2, kind, mask=_KIND),)) for kind in _FILE_KINDS),
    *(("ioctl", (Test(1, request),)) for request in _IOCTLS),
    *(("personality", (Test(0, persona),)) for persona in (0, _WORD)),
    ("socket", (Test(0, socket.AF_UNIX),)),
    ("socketpair", (Test(0, socket.AF_UNIX),)),
    *(
        (
            "socket",
            (Test(0, family), Test(1, kind, mask=_KIND_OF_SOCKET), Test(2, protocol)),
        )
        for family in (socket.AF_INET, socket.AF_INET6)
        for kind, own in ((1, socket.IPPROTO_TCP), (2, socket.IPPROTO_UDP))
        for protocol in (0, own)
    ),
)
"""Calls that are allowed when all tests hold; one may stand here several times."""

REFUSED_SOME: tuple[tuple[str, Test], ...] = (
    *(("clone", Test(0, flag, mask=flag)) for flag in _NAMESPACES),
    *(("ioctl", Test(1, request)) for request in _INJECTING),
)
"""Refused with EPERM when the test holds."""

REFUSED_FAMILIES = tuple(
    family for family in range(64) if family not in (1, socket.AF_INET, socket.AF_INET6)
)
"""Families of sockets that are refused with EAFNOSUPPORT, as by a kernel without."""
