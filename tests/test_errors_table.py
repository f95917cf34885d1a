"""The page of error reasons says what the services do, all of it and no more."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import picod
import router
import serving
import workloadmanager
from serving import Refusal

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "errors.md"
ROOMS = (serving, router, workloadmanager, picod)
RETRYABLE = {"yes", "yes ⏲", "if idempotent", "no"}


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    reason: str
    status: str
    retryable: str
    metadata: str
    since: str
    meaning: str


def rows() -> list[Row]:
    """Return the lines of the page's table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[each.strip() for each in line.strip("|").split("|")] for line in lines]
    return [Row(reason.strip("`"), *rest) for reason, *rest in cells]


def refusals() -> Iterator[tuple[str, Refusal]]:
    """Yield each refusal that stands in a module of a room, with its place."""
    for room in ROOMS:
        for found in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            if found.ispkg:  # what runs inside a sandbox knows no gRPC
                continue
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                many = value.values() if isinstance(value, Mapping) else [value]
                for each in many:
                    if isinstance(each, Refusal):
                        yield f"{found.name}.{name}", each


PRODUCED = sorted(set(refusals()), key=lambda found: (found[1].reason, found[0]))


@pytest.mark.parametrize(
    ("place", "refusal"), PRODUCED, ids=lambda each: str(each)[:60]
)
def test_every_refusal_stands_on_the_page(place: str, refusal: Refusal) -> None:
    """A service tells no reason that its users cannot look up, and one status each."""
    [row] = [row for row in rows() if row.reason == refusal.reason]
    assert row.status == refusal.code.name, place
    if refusal.retry_after is not None:
        assert row.retryable == "yes ⏲", place


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row.reason))
def test_every_line_is_true(row: Row) -> None:
    """Each reason is told by somebody, and its line is complete and well formed."""
    found = [refusal for _, refusal in PRODUCED if refusal.reason == row.reason]
    assert found
    assert any(each.retry_after is not None for each in found) == ("⏲" in row.retryable)
    assert re.fullmatch(r"[A-Z][A-Z_]+", row.reason)
    assert row.retryable in RETRYABLE
    assert re.fullmatch(r"(`[a-z_]+`(, `[a-z_]+`)*)?", row.metadata)
    assert re.fullmatch(r"\d+\.\d+\.\d+", row.since)
    assert row.meaning


def test_the_page_is_sorted_and_says_nothing_twice() -> None:
    """A reason is found where one looks for it."""
    reasons = [row.reason for row in rows()]
    assert reasons == sorted(set(reasons))
