"""How refusals read on the wire."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc
import pytest

from router import _errors as errors
from router._refusals import TABLE, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def kinds(of: type[Exception] = errors.RouterError) -> Iterator[type[Exception]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_error_has_a_row() -> None:
    """No refusal of ours reads INTERNAL by oversight."""
    assert set(kinds()) - TABLE.keys() == {errors.ManagerAnswerError}


def test_reasons_are_stable_words_and_each_is_used_once() -> None:
    """Programs branch on them."""
    reasons = [refusal.reason for refusal in TABLE.values()]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", reason) for reason in reasons)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.NotYoursError(""), "PERMISSION_DENIED", "SESSION_NOT_YOURS"),
        (errors.SessionExpiredError(""), "NOT_FOUND", "SESSION_EXPIRED"),
        (errors.OverloadedError(""), "RESOURCE_EXHAUSTED", "SERVER_OVERLOADED"),
        (errors.SandboxTimeoutError(""), "DEADLINE_EXCEEDED", "SANDBOX_TIMEOUT"),
        (errors.MethodUnknownError(""), "UNIMPLEMENTED", "METHOD_UNKNOWN"),
    ],
)
def test_the_contract_words(error: errors.RouterError, code: str, reason: str) -> None:
    """Pinned: these are never renamed."""
    assert reason_of(error) == reason
    assert TABLE[type(error)].code is grpc.StatusCode[code]
