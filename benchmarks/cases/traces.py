"""What tracing leaves behind in a service where it is off."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks._case import At, case
from benchmarks._series import ROUNDS, Series
from serving import begun, carried, span

if TYPE_CHECKING:
    from benchmarks._case import Measured

__all__: list[str] = []

_TIMES: Final = 20_000
_METADATA: Final = (("x-request-id", "1"), ("authorization", "Bearer x"))


@case("traces/off", depth="quick")
async def off(at: At) -> Measured:
    """Do in vain what the Router does for the trace of each call; processor time."""
    del at
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(_TIMES):
            with span("cubemesh.v1.PicoD/Stat", asking=True):
                carried(_METADATA)
            begun("router.handshake")
        rounds.append([(time.thread_time() - began) / _TIMES * 1e6])
    return {"call": Series("us", "lower", rounds)}
