"""From a service's coroutine to the process's exit status."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

from serving._faults import EX_CONFIG, EX_SOFTWARE, FatalError, Fault, print_faults
from tlsloader import MaterialError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

__all__ = ["announce", "report", "run"]

_INTERRUPTED = 130
_MATERIAL_HINT = "is whoever issues certificates writing these files?"

_log = logging.getLogger(__name__)


def run(main: Coroutine[Any, Any, None], stream: TextIO | None = None) -> int:
    """Run *main* on uvloop, where there is one, and return the exit status.

    0 after a clean end; the status of a `FatalError`, and 78 for unusable TLS
    material or any error with a ``hint``, after ``error:`` and ``hint:`` lines on
    *stream* (standard error); 70 after anything unforeseen, which is logged with
    its traceback; 130 when a second signal cut the end short.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(main)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the root of the process
        return report(error, stream)
    return 0


def announce(*, listen: str, stream: TextIO | None = None, **more: object) -> None:
    """Print the ready line: one JSON object on standard output.

    ``{"ready": true, "listen": "127.0.0.1:1234", …}`` with *more*, e.g. ``metrics``.
    """
    line = json.dumps({"ready": True, "listen": listen, **more})
    print(line, file=stream or sys.stdout, flush=True)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        found: Any = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = found.new_event_loop
    return factory


def report(error: Exception, stream: TextIO | None = None) -> int:
    """Tell *error* on *stream* (standard error); return the exit status for it."""
    stream = stream or sys.stderr
    status = 0
    for leaf in _leaves(error):
        known = _known(leaf)
        if known is None:
            _log.critical("the service failed", exc_info=leaf)
            known = (
                [("the service failed unexpectedly", "the log says why")],
                EX_SOFTWARE,
            )
        print_faults(known[0], stream)
        status = status or known[1]
    return status


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _known(error: Exception) -> tuple[list[Fault], int] | None:
    if isinstance(error, FatalError):
        return list(error.faults), error.status
    if isinstance(error, MaterialError):
        return [(str(error), _MATERIAL_HINT)], EX_CONFIG
    hint = getattr(error, "hint", None)  # siblings' errors, which we may not import
    return ([(str(error), hint)], EX_CONFIG) if isinstance(hint, str) else None
