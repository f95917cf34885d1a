"""Those who want to hear of whatever is newer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Subscribers"]

_T = TypeVar("_T")


class Subscribers(Generic[_T]):
    """Callbacks in the order in which they came; one that comes twice is there twice.

    Whoever iterates may be left, or joined, meanwhile.
    """

    def __init__(self) -> None:
        self._callbacks: dict[object, Callable[[_T], None]] = {}

    def __iter__(self) -> Iterator[Callable[[_T], None]]:
        return iter(tuple(self._callbacks.values()))

    def add(self, callback: Callable[[_T], None]) -> Callable[[], None]:
        """Add *callback*; return what takes it off, which twice does no harm."""
        token = object()
        self._callbacks[token] = callback

        def leave() -> None:
            self._callbacks.pop(token, None)

        return leave
