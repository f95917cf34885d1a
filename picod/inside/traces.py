"""Exceptions of code in words: bounded, without our own frames, whatever they do."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


def said(error: BaseException) -> str:
    """Return the text of *error*, which may do anything when it is asked for it."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as failed:  # noqa: BLE001  # the exception's own doing
        return f"its text could not be made: {type(failed).__name__}"


def encoded(text: object, most: int) -> bytes:
    """Encode *text*, without its middle if it is longer than *most* bytes."""
    if type(text) is not str:
        return b"?"
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= most:
        return data
    left = most // 4
    begin = data[:left].decode("utf-8", "ignore")
    end = data[left - most :].decode("utf-8", "ignore")
    cut = f"{len(data) - most:,} of {len(data):,} bytes are left out"
    return f"{begin}\n… {cut} …\n{end}".encode()


def trimmed(trace: TracebackType | None) -> TracebackType | None:
    """Leave our own frames out: those around the cell, and of what it called."""
    while trace and not trace.tb_frame.f_code.co_filename.startswith("<cell "):
        trace = trace.tb_next
    shown = trace
    while trace:
        while trace.tb_next and _ours(trace.tb_next):
            trace.tb_next = trace.tb_next.tb_next
        trace = trace.tb_next
    return shown


def _ours(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith("<picod.")
