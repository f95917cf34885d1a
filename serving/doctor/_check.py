"""One finding of the doctor's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from serving.doctor._remedies import remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Check"]

_MARKS: Final = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}


class _Refusal(Protocol):
    """An error with a stable reason; its text is a sentence."""

    @property
    def reason(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: a sentence about it, and what to do unless it is well.

    ``reason`` is the stable word of the refusal, if there is one.
    """

    name: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    hint: str = ""
    reason: str = ""

    @classmethod
    def ok(cls, name: str, detail: str) -> Self:
        """Return that *name* is well."""
        return cls(name, "ok", detail)

    @classmethod
    def warning(cls, name: str, detail: str, hint: str) -> Self:
        """Return what may go wrong soon."""
        return cls(name, "warning", detail, hint)

    @classmethod
    def failed(cls, name: str, error: _Refusal) -> Self:
        """Return what *error* says, and what the page of refusals advises."""
        reason = error.reason
        return cls(name, "failed", str(error), remedy(reason), reason)

    @property
    def is_failed(self) -> bool:
        """Whether something does not work."""
        return self.state == "failed"

    def softened(self) -> Self:
        """Return it as no more than a warning."""
        return replace(self, state="warning") if self.is_failed else self

    def lines(self) -> Iterator[str]:
        """Yield it as text."""
        yield f"{_MARKS[self.state]}  {self.name}: {self.detail}"
        if self.hint:
            yield f"      hint: {self.hint}"

    def fields(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"ok": not self.is_failed, **asdict(self)}
