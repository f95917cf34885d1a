"""What a filter of system calls would decide, without asking a kernel.

Source: the kernel's Documentation/networking/filter.rst; seccomp(2), `seccomp_data`.
"""

from __future__ import annotations

import struct

ALLOW = 0x7FFF_0000
ERRNO = 0x0005_0000
ARCHITECTURES = {"aarch64": 0xC000_00B7, "x86_64": 0xC000_003E}
_INSTRUCTION = struct.Struct("=HBBI")
_CALL = struct.Struct("<iIQ6Q")
_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_TESTS = {
    0x15: lambda word, value: word == value,
    0x25: lambda word, value: word > value,
    0x35: lambda word, value: word >= value,
    0x45: lambda word, value: word & value,
}


def decide(program: bytes, architecture: int, number: int, *args: int) -> int:
    """Return what *program* returns for one call of *architecture*."""
    numbers = [each % 2**64 for each in args] + [0] * (6 - len(args))
    data = _CALL.pack(number, architecture, 0, *numbers)
    word = at = 0
    while True:
        code, true, false, value = _INSTRUCTION.unpack_from(program, 8 * at)
        at += 1
        if code == _RETURN:
            return int(value)
        if code == _LOAD:
            (word,) = struct.unpack_from("<I", data, value)
        elif code == _AND:
            word &= value
        elif code == _JUMP:
            at += value
        else:
            at += true if _TESTS[code](word, value) else false
