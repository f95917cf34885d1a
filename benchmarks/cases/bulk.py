"""Much data at once: files and output, through the Router and without it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks._case import MODES, At, case
from benchmarks._series import Series
from benchmarks._ways import ways

if TYPE_CHECKING:
    from benchmarks._case import Measured
    from benchmarks._ways import Way

__all__: list[str] = []

_MIB: Final = 64
_PIECE: Final = bytes(1 << 18)
_PIECES: Final = (_MIB << 20) // len(_PIECE)
_FILE: Final = b"big"
_ROUNDS: Final = 4


@case("bulk/{what}@{mode}", mode=MODES, what=("read", "write", "output"))
async def bulk(at: At, *, what: str, **_: str) -> Measured:
    """Move 64 MiB, by turns through the Router and without it."""
    rates: dict[str, list[list[float]]] = {"routed": [], "direct": []}
    async with ways(at.mesh) as to:
        await to.direct.write(_FILE, _PIECES, _PIECE)
        for _turn in range(max(2, round(at.seconds(_ROUNDS)))):
            for name, way in (("direct", to.direct), ("routed", to.routed)):
                rates[name].append([await _rate(way, what)])
    shares = [
        [100 * routed / straight]
        for (routed,), (straight,) in zip(*rates.values(), strict=True)
    ]
    found = {name: Series("MB/s", "higher", each) for name, each in rates.items()}
    found["direct"] = found["direct"].beside()
    return {"share": Series("%", "higher", shares), **found}


async def _rate(way: Way, what: str) -> float:
    began = time.perf_counter()
    match what:
        case "read":
            size = await way.read(_FILE)
        case "write":
            size = await way.write(_FILE, _PIECES, _PIECE)
        case _:
            size = await way.execute("head", "-c", f"{_MIB}M", "/dev/zero")
    if size != _MIB << 20:
        raise RuntimeError(f"{what} moved {size} bytes of {_MIB} MiB")
    return size / 1e6 / (time.perf_counter() - began)
