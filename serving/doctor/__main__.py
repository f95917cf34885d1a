"""``python -m serving.doctor``: look, tell, and leave."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

from clock import SYSTEM, Clock
from serving._settings import parse
from serving.doctor import _own, _target
from serving.doctor._check import Check
from serving.doctor._settings import Settings
from tlsloader import MaterialError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["examine", "main", "report"]

_INTERRUPTED: Final = 130
_UNHEARD: Final = 141


async def examine(settings: Settings, clock: Clock = SYSTEM) -> AsyncIterator[Check]:
    """Yield all that there is to say, within the time that *settings* give."""
    end = clock.monotonic() + settings.timeout

    def left() -> float:
        return max(0.0, end - clock.monotonic())

    try:
        async with asyncio.timeout(left() / 2):
            own = (await settings.identity(wait=left() / 4)).current()
    except MaterialError as error:
        yield Check.failed("identity", error)
        if settings.target is not None:
            text = f"{settings.target} is not tried without an identity"
            yield Check.warning("address", text, "mend the identity first")
        return
    except TimeoutError:
        text = f"{_own.source_of(settings)} cannot be read in time"
        hint = "does a network file system hang? else give more time by --timeout"
        yield Check("identity", "failed", text, hint)
        return
    for check in _own.checks(settings, own, clock.now()):
        yield check
    if settings.target is not None:
        async for check in _target.checks(settings, settings.target, own, left):
            yield check


async def report(settings: Settings, stream: TextIO) -> int:
    """Write all checks to *stream*, each as soon as it is done; 1 if one failed."""
    checks = []
    async for check in examine(settings):
        checks.append(check)
        if not settings.as_json:
            print(*check.lines(), sep="\n", file=stream, flush=True)
    ok = not any(check.is_failed for check in checks)
    if settings.as_json:
        said = {"ok": ok, "checks": [check.fields() for check in checks]}
        print(json.dumps(said, ensure_ascii=False), file=stream, flush=True)
    return 0 if ok else 1


def main() -> NoReturn:
    """Examine what flags and environment name."""
    settings = parse(Settings, sys.argv[1:], os.environ, prog="cubemesh-doctor")
    logging.disable()  # what there is to say, the checks say
    loop = asyncio.new_event_loop()
    try:
        status = loop.run_until_complete(report(settings, sys.stdout))
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        status = _UNHEARD
    # A name server that is silent, or a disk that hangs, holds a thread which nobody
    # can end, and which any other way to leave would wait for.
    os._exit(status)


if __name__ == "__main__":
    main()
