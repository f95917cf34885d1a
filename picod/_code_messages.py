"""Code and contexts in the runner's bytes, and back; what comes back is checked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from picod import _protocol as wire
from picod._code import (
    CodeEnd,
    CodeFinished,
    CodeStarted,
    ContextInfo,
    Contexts,
    Fault,
    Import,
    Result,
)
from picod._types import Output
from picod._values import number, pack, text, unpack_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from picod._code import Code, NewContext
    from picod._values import Value

    Event = CodeStarted | Output | Result | Fault | CodeFinished

__all__ = ["CodeEvents", "context", "contexts", "create", "named", "pairs", "run"]

_LARGEST_RESULT = 3 * 1024 * 1024
_STREAMS: dict[int, Literal["stdout", "stderr"]] = {
    wire.STDOUT: "stdout",
    wire.STDERR: "stderr",
}


def pairs(environment: Mapping[str, str]) -> list[Value]:
    """Encode *environment*: names and values in turn."""
    return [
        os.fsencode(each)
        for name, value in environment.items()
        for each in (name, value)
    ]


def run(code: Code, timeout: float) -> bytes:
    """Encode the request to run *code* within *timeout* seconds."""
    return pack(
        {
            b"op": b"run",
            b"context": (code.context or code.language or "python").encode(),
            b"language": code.language.encode(),
            b"code": code.encoded,
            b"cwd": b"",
            b"environment": pairs(code.environment),
            b"timeout_ms": max(1, round(timeout * 1000)),
        }
    )


def create(new: NewContext) -> bytes:
    """Encode the request to make a context."""
    return pack(
        {
            b"op": b"context_create",
            b"language": new.language.encode(),
            b"cwd": new.cwd,
            b"environment": pairs(new.environment),
        }
    )


def named(operation: bytes, name: str) -> bytes:
    """Encode a request about the context *name*."""
    return pack({b"op": operation, b"context": name.encode()})


def context(values: dict[bytes, Value]) -> ContextInfo:
    """Decode one context.

    Raises:
        ProtocolError: it is none.
    """
    return ContextInfo(
        name=_string(values, b"context"),
        language=_string(values, b"language"),
        cwd=text(values, b"cwd"),
        count=_count(values, b"count"),
        busy=bool(number(values, b"busy")),
        waiting=_count(values, b"waiting"),
    )


def contexts(values: dict[bytes, Value]) -> Contexts:
    """Decode the answer to a list.

    Raises:
        ProtocolError: it is none.
    """
    return Contexts(
        [context(each) for each in _dicts(values, b"contexts")],
        [_import(each) for each in _dicts(values, b"imports")],
    )


def _import(values: dict[bytes, Value]) -> Import:
    return Import(
        name=_string(values, b"name"),
        duration=_count(values, b"duration_ns") / 1e9,
        memory=_count(values, b"memory"),
        error=_string(values, b"error"),
    )


class CodeEvents:
    """Turns the frames of one call into events, in their only order."""

    def __init__(self) -> None:
        self._offsets = dict.fromkeys(_STREAMS, 0)
        self._started = self._failed = self.over = False
        self._head: dict[bytes, Value] = {}
        self._parts: dict[str, int] = {}
        self._awaited = 0
        self._pieces: list[bytes] = []

    def event(self, kind: int, payload: bytes) -> Event | None:
        """Decode one frame; None: an event is not complete.

        Raises:
            ProtocolError: it cannot come now.
        """
        if kind == wire.STARTED and not self._started:
            self._started = True
            return _started(unpack_dict(payload))
        if not self._started or (kind == wire.DATA) != bool(self._awaited):
            raise wire.ProtocolError(f"frame of type {kind} out of order")
        if kind in _STREAMS:
            before = self._offsets[kind]
            self._offsets[kind] += len(payload)
            return Output(_STREAMS[kind], before, payload)
        if kind == wire.RESULT:
            return self._open(unpack_dict(payload))
        if kind == wire.DATA:
            return self._fill(payload)
        if kind == wire.RAISED and not self._failed:
            self._failed = True
            return _fault(unpack_dict(payload))
        if kind == wire.DONE:
            self.over = True
            return _finished(unpack_dict(payload))
        raise wire.ProtocolError(f"frame of type {kind} out of order")

    def _open(self, head: dict[bytes, Value]) -> Result | None:
        self._head, self._pieces = head, []
        parts = _dict(head, b"parts")
        self._parts = {_text(name): _count(parts, name) for name in parts}
        self._awaited = sum(self._parts.values())
        if self._awaited > _LARGEST_RESULT:
            raise wire.ProtocolError("a result is too large")
        return None if self._awaited else self._result()

    def _fill(self, payload: bytes) -> Result | None:
        self._awaited -= len(payload)
        if self._awaited < 0:
            raise wire.ProtocolError("more of a result than it said")
        self._pieces.append(payload)
        return None if self._awaited else self._result()

    def _result(self) -> Result:
        whole, at, data = b"".join(self._pieces), 0, {}
        for name, size in self._parts.items():
            data[name], at = whole[at : at + size], at + size
        cut = _dict(self._head, b"cut")
        notes = {_text(name): _string(cut, name) for name in cut}
        return Result(bool(number(self._head, b"main")), data, notes)


def _started(values: dict[bytes, Value]) -> CodeStarted:
    return CodeStarted(
        _string(values, b"context"),
        _count(values, b"count"),
        _string(values, b"notice"),
    )


def _fault(values: dict[bytes, Value]) -> Fault:
    return Fault(
        _string(values, b"name"),
        _string(values, b"value"),
        _string(values, b"traceback"),
    )


def _finished(values: dict[bytes, Value]) -> CodeFinished:
    cause = _count(values, b"cause")
    if cause > CodeEnd.DIED.value:
        raise wire.ProtocolError("no call ends like this")
    return CodeFinished(
        cause=CodeEnd(cause),
        duration=_count(values, b"duration_ns") / 1e9,
        state_lost=bool(number(values, b"lost")),
        output_omitted=_count(values, b"output_omitted"),
        results_omitted=_count(values, b"results_omitted"),
    )


def _count(values: dict[bytes, Value], key: bytes) -> int:
    value = number(values, key)
    if not 0 <= value < 2**63:
        raise wire.ProtocolError(f"{key!r} is out of range")
    return value


def _string(values: dict[bytes, Value], key: bytes) -> str:
    return _text(text(values, key))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _dict(values: dict[bytes, Value], key: bytes) -> dict[bytes, Value]:
    value = values.get(key)
    if not isinstance(value, dict):
        raise wire.ProtocolError(f"{key!r} is not a dict")
    return value


def _dicts(values: dict[bytes, Value], key: bytes) -> list[dict[bytes, Value]]:
    value = values.get(key)
    if not isinstance(value, list):
        raise wire.ProtocolError(f"{key!r} is not a list")
    found = [each for each in value if isinstance(each, dict)]
    if len(found) != len(value):
        raise wire.ProtocolError(f"{key!r} holds more than dicts")
    return found
