"""The page of refusals names every reason that is given, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving.doctor._remedies import Row, remedy, tables

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "refusals.md"
ROOMS = ("auth", "tlsloader")
GIVERS = {"failed", "_refuse", "Deny"}
WORD = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
START = re.compile(r"([a-z0-9]+_)+")


ROWS = [row for table in tables(PAGE.read_text()) for row in table]


def given() -> dict[str, str]:
    """Return each reason in the rooms' code, with a module that gives it."""
    return {
        word: module.name
        for room in ROOMS
        for module in sorted((ROOT / room).glob("*.py"))
        for node in ast.walk(ast.parse(module.read_text()))
        for place in _reasons_in(node)
        for word in _words(place)
    }


def _reasons_in(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what *node* uses as a reason.

    That is the first argument of an error (the second, if a text that was read comes
    first), what is called ``reason`` or ``_REASONS``, what a ``…_reason`` returns,
    and what a log line tells as its "reason".
    """
    match node:
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=args):
            after_text = name in {"_error", "InvalidMatcherError"}
            if after_text or name.endswith("Error") or name in GIVERS:
                yield from args[after_text:][:1]
        case ast.Assign(targets=[ast.Name(name)], value=value) if _is_reason(name):
            yield value
        case ast.AnnAssign(target=ast.Name(name), value=ast.AST() as value) if (
            _is_reason(name)
        ):
            yield value
        case ast.FunctionDef(name=name) if name.endswith("_reason"):
            returns = (each for each in ast.walk(node) if isinstance(each, ast.Return))
            yield from (each.value for each in returns if each.value)
        case ast.keyword(arg="reason", value=value):
            yield value
        case ast.Dict(keys=keys, values=values):
            names = (key.value if isinstance(key, ast.Constant) else "" for key in keys)
            told = dict(zip(names, values, strict=True))
            yield from [told["reason"]] if "reason" in told else []


def _is_reason(name: str) -> bool:
    return name == "reason" or name.endswith("_REASONS")


def _words(place: ast.AST) -> Iterator[str]:
    match place:
        case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
            yield from [f"{start}…"] if START.fullmatch(start) else []
        case ast.Call(func=ast.Name("getattr")):
            return
        case ast.Constant(value=str(text)) if WORD.fullmatch(text):
            yield text
        case _:
            for child in ast.iter_child_nodes(place):
                yield from _words(child)


GIVEN = given()


@pytest.mark.parametrize(("reason", "module"), sorted(GIVEN.items()))
def test_every_reason_stands_on_the_page_once(reason: str, module: str) -> None:
    """Whoever finds a reason in a log can look it up."""
    assert [row.reason for row in ROWS].count(reason) == 1, module


@pytest.mark.parametrize("reason", sorted(GIVEN))
def test_the_doctor_has_a_hint_for_every_reason(reason: str) -> None:
    """It reads the same page, so that nobody has to."""
    hint = remedy(reason.replace("…", "signer_expired"))
    assert hint
    assert not hint.endswith(".")
    assert "](" not in hint


def test_the_doctor_makes_nothing_up() -> None:
    """What the page does not know has no hint."""
    assert remedy("no_such_reason") == ""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.reason))
def test_every_line_is_true(row: Row) -> None:
    """Each reason on the page is given by the code, and told with all that helps."""
    assert row.reason in GIVEN
    assert row.meaning.endswith(".")
    assert row.remedy.endswith(".")
    assert row.source


def test_each_table_is_sorted() -> None:
    """A reason is found where one looks for it."""
    for table in tables(PAGE.read_text()):
        reasons = [row.reason for row in table]
        assert reasons == sorted(reasons)


def test_the_walk_over_the_code_misses_nothing() -> None:
    """Each form in which the code gives a reason is seen; so the page is complete."""
    for reason, module in {
        "no_leading_slash": "_spiffe.py",  # of a table
        "several_keys": "_pem.py",  # one of two
        "bundle_…": "_bundle.py",  # made from another
        "closing": "_dialer.py",  # by a method
        "hung_up": "_context.py",  # returned
        "other_process": "_inlet.py",  # only logged
        "no_key_id": "_svids.py",  # of the room above
    }.items():
        assert GIVEN[reason] == module
