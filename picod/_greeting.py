"""The first exchange with a runner: its code, our HELLO, its HELLO."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from picod import _messages as messages
from picod._diagnose import diagnose, read_settings
from picod._errors import RunnerFaultError
from picod._protocol import ProtocolError
from picod._values import unpack_dict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from picod._link import Link
    from picod._spawn import Place
    from picod._types import Limits
    from picod._values import Value

__all__ = ["greet"]

_PATIENCE = 10.0


async def greet(  # noqa: PLR0913
    link: Link,
    limits: Limits,
    place: Place,
    environment: Mapping[str, str],
    imports: Sequence[str] = (),
    *,
    watch: bool = True,
) -> dict[bytes, Value]:
    """Give the runner, which has its code, our HELLO, and wait for its own.

    Raises:
        IsolationError: none came; then no process is left.

    """
    link.send(messages.hello(limits, place, environment, imports, watch=watch))
    try:
        async with asyncio.timeout(_PATIENCE):
            hello = unpack_dict(await asyncio.shield(link.hello))
            messages.check_hello(hello)
    except (RunnerFaultError, TimeoutError, ProtocolError) as error:
        link.break_off("the runner did not start")
        link.kill()
        await link.ended
        raise diagnose(link.said or str(error), read_settings()) from error
    except BaseException:
        link.close()
        link.kill()
        raise
    return hello
