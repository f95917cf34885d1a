"""Spans of time: seconds in the hand, `Duration` on the wire."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration


def to_duration(span: float | timedelta) -> Duration:
    """Return *span* (seconds, or a timedelta).

    Raises:
        ValueError: it is not above zero.

    """
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if not seconds > 0:
        message = f"a span of time must be above zero, not {seconds:g} s"
        raise ValueError(message)
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
