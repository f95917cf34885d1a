"""Sandboxes that lack one of their fences, to show that its absence would be seen."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from picod import _bwrap

if TYPE_CHECKING:
    import pytest

_RETURN, _ALLOW = 0x06, 0x7FFF_0000
ALLOW_ALL = struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW)


def take_away(fence: str, patch: pytest.MonkeyPatch) -> None:
    """Start sandboxes without *fence*: `seccomp`, or an option of bwrap."""
    if fence == "seccomp":
        patch.setattr(_bwrap, "load", lambda: ALLOW_ALL)
        return
    assert fence in _bwrap._FENCES
    left = tuple(option for option in _bwrap._FENCES if option != fence)
    patch.setattr(_bwrap, "_FENCES", left)
