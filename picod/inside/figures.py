"""matplotlib's figures as pictures: our own backend, loaded if matplotlib is."""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BACKEND = "cubemesh_figures"


def draw(figure: Any) -> bytes:
    """Draw *figure* as PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight")
    return picture.getvalue()


def open_figures() -> list[Any]:
    """Return the figures that are open, and close them."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or not hasattr(pyplot, "get_fignums"):
        return []
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    pyplot.close("all")
    return figures


def name_backend() -> None:
    """Let matplotlib use our backend, unless the environment names one.

    It reads that when it is imported, and looks for the backend at the first figure.
    """
    os.environb.setdefault(b"MPLBACKEND", b"module://" + _BACKEND.encode())


def install(show: Callable[[], None]) -> None:
    """Be that backend: `pyplot.show` calls *show*."""
    module: Any = type(sys)(_BACKEND, "Shows figures in the results of the call.")

    def getattribute(name: str) -> Any:
        if name != "FigureCanvas":
            raise AttributeError(name)
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

        module.FigureCanvas = FigureCanvasAgg
        return FigureCanvasAgg

    module.__getattr__ = getattribute
    module.show = lambda *_, **__: show()
    sys.modules[_BACKEND] = module
