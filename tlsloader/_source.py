"""Where a service gets its identity, and how that identity stays fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlsloader._material import Material

__all__ = ["FixedSource", "Source"]


class Source(Protocol):
    """Gives the newest good material, and tells when there is newer."""

    def current(self) -> Material:
        """Return the newest generation that passed every check."""

    def subscribe(self, callback: Callable[[Material], None]) -> Callable[[], None]:
        """Have *callback* called, on the event loop, after each publication.

        Returns:
            A function that ends the subscription; calling it again is harmless.
        """


class FixedSource:
    """The one material it was made from, for ever."""

    def __init__(self, material: Material) -> None:
        self._material = material

    def current(self) -> Material:
        """Return that material."""
        return self._material

    def subscribe(self, callback: Callable[[Material], None]) -> Callable[[], None]:
        """Never call *callback*: nothing newer comes."""
        del callback
        return lambda: None
