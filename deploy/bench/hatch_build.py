"""Put the benchmark's modules into its wheel, and none of its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BenchHook(BuildHookInterface[Any]):
    """Names the files; `force-include` would take all that lies in the folder."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every module."""
        del version
        tree = Path(self.root).parents[1]
        for module in (tree / "benchmarks").rglob("*.py"):
            target = str(module.relative_to(tree))
            build_data["force_include"][str(module)] = target
