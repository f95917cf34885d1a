"""One run, as it is kept: every sample's histogram, and what it was taken on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from benchmarks._series import Series

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Outcome", "Results", "ResultsError"]

_VERSION: Final = 1


class ResultsError(Exception):
    """A file does not hold the results of a run."""


@dataclass(slots=True)
class Outcome:
    """What a case gave: series by name; or why there are none."""

    about: str = ""
    series: dict[str, Series] = field(default_factory=dict)
    missing: str = ""
    failed: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return it for the results file; what is empty is left out."""
        told: dict[str, Any] = {"about": self.about, "seconds": round(self.seconds, 1)}
        told["series"] = {name: each.as_json() for name, each in self.series.items()}
        told |= {"missing": self.missing, "failed": self.failed}
        return {key: value for key, value in told.items() if value or key == "series"}

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Self:
        """Return what `as_json` gave."""
        series = {name: Series.of_json(each) for name, each in told["series"].items()}
        return cls(**(told | {"series": series}))


@dataclass(slots=True)
class Results:
    """A whole run; ``yardstick`` is what the machine gave before and after it."""

    at: str
    depth: str
    machine: dict[str, Any]
    yardstick: dict[str, Series] = field(default_factory=dict)
    cases: dict[str, Outcome] = field(default_factory=dict)

    def find(self, case: str, series: str) -> Series | None:
        """Return one series, if it was taken."""
        outcome = self.cases.get(case)
        return None if outcome is None else outcome.series.get(series)

    def write(self, path: Path) -> None:
        """Put all of it into the file at *path*."""
        told = {
            "version": _VERSION,
            "at": self.at,
            "depth": self.depth,
            "machine": self.machine,
            "yardstick": {k: each.as_json() for k, each in self.yardstick.items()},
            "cases": {name: each.as_json() for name, each in self.cases.items()},
        }
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the run in the file at *path*.

        Raises:
            ResultsError: it holds none.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told.pop("version") != _VERSION:
                raise ResultsError(f"{path} is of another version")
            told["yardstick"] = {
                name: Series.of_json(each) for name, each in told["yardstick"].items()
            }
            told["cases"] = {
                name: Outcome.of_json(each) for name, each in told["cases"].items()
            }
            return cls(**told)
        except OSError as error:
            raise ResultsError(f"cannot read {path}: {error.strerror}") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"{path} holds no results: {error}") from error
