"""Two functions of libc, by way of what `ctypes` is made of.

Loading `ctypes` itself takes longer than all modules of the runner together.
"""

from __future__ import annotations

import _ctypes

__all__ = ["Bytes", "Short", "prctl", "signal"]


class Short(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001
    """An unsigned short."""

    _type_ = "H"


class Bytes(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001
    """A pointer to bytes."""

    _type_ = "z"


class _Int(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001
    _type_ = "i"


class _Pointer(_ctypes._SimpleCData):  # type: ignore[type-arg]  # noqa: SLF001
    _type_ = "P"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


class _Handler(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL
    _argtypes_ = (_Int, _Pointer)
    _restype_ = _Pointer


class _Loaded:
    """All that this process has loaded, as `ctypes.CDLL(None)` is."""

    _handle = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]


prctl = _Function(("prctl", _Loaded))  # type: ignore[arg-type]
"""Source: prctl(2); errno is what `_ctypes.get_errno` tells."""
signal = _Handler(("signal", _Loaded))  # type: ignore[arg-type]
"""Source: signal(2); unlike Python's own it leaves no handler behind."""
