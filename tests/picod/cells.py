"""Running code in real contexts, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from picod._code import Code, CodeFinished, CodeStarted, Fault, Result
from picod._types import Output
from tests.picod.sandboxes import singly

if TYPE_CHECKING:
    from picod._runner import Runner


@dataclass(slots=True)
class Ran:
    """All that a call told."""

    started: CodeStarted = field(init=False)
    finished: CodeFinished = field(init=False)
    outputs: list[tuple[str, bytes]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    fault: Fault | None = None

    @property
    def stdout(self) -> bytes:
        return b"".join(data for stream, data in self.outputs if stream == "stdout")

    @property
    def stderr(self) -> bytes:
        return b"".join(data for stream, data in self.outputs if stream == "stderr")

    @property
    def text(self) -> str | None:
        """The value of the last expression."""
        for each in self.results:
            if each.main:
                return each.data["text/plain"].decode()
        return None

    @property
    def name(self) -> str:
        """The class of what was raised; empty: nothing."""
        return self.fault.name if self.fault else ""


async def cell(runner: Runner, text: str, **settings: Any) -> Ran:
    """Run code to its end."""
    ran = Ran()
    async for event in singly(runner.code.run(Code(text, **settings))):
        match event:
            case CodeStarted():
                ran.started = event
            case Output():
                assert event.offset == len(getattr(ran, event.stream))
                ran.outputs.append((event.stream, event.data))
            case Result():
                ran.results.append(event)
            case Fault():
                assert ran.fault is None
                ran.fault = event
            case CodeFinished():
                ran.finished = event
    return ran
