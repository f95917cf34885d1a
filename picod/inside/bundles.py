"""A value in all forms that it can be shown in: media types and their data."""

from __future__ import annotations

import sys

from picod.inside import figures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Forms = dict[str, object]

LARGEST = 3 * 1024 * 1024  # all forms of one value, in bytes
TEXT = 256 * 1024  # `text/plain`, in bytes
_MOST = 32  # forms
ROWS = 1000  # of a table, as JSON
PLAIN, JSON = "text/plain", "application/json"
_METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_pdf_": "application/pdf",
    "_repr_json_": JSON,
    "_repr_javascript_": "application/javascript",
}
_BINARY = ("image/png", "image/jpeg", "application/pdf")


class Bundle:
    """The forms of one value.

    ``data`` holds them by media type, ``cut`` what of a form is missing, in words.
    """

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.cut: dict[str, str] = {}
        self._room = LARGEST

    def add(self, name: str, form: object) -> None:
        """Add one form, or note why it is left out."""
        if len(self.data) + len(self.cut) >= _MOST:
            return
        data = _encode(name, form)
        if name == PLAIN and len(data) > TEXT:
            self.cut[name] = f"the first {TEXT:,} of {len(data):,} bytes"
            data = data[:TEXT].decode("utf-8", "ignore").encode()
        if len(data) > self._room:
            self.cut[name] = (
                f"left out: {len(data):,} bytes, at most {LARGEST:,} in all"
            )
            return
        self._room -= len(data)
        self.data[name] = data


def bundle(value: object, complain: Callable[[str], None]) -> Bundle:
    """Ask *value* for its forms.

    Args:
        value: what to show.
        complain: told of forms that could not be made.

    Raises:
        BaseException: `repr` raised it.

    """
    made = Bundle()
    made.add(PLAIN, repr(value))
    for maker, fault in _MAKERS:
        try:
            for name, form in maker(value, made):
                if name not in made.data:
                    made.add(name, form)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # it is the code's own
            complain(f"{fault}: {type(error).__name__}: {error}\n")
    return made


def of_forms(forms: Forms) -> Bundle:
    """Make a bundle of forms that are there already."""
    made = Bundle()
    for name, form in forms.items():
        made.add(str(name), form)
    return made


def _own_forms(value: object, _: Bundle) -> Iterator[tuple[str, object]]:
    """Yield what the value itself offers."""
    kind = type(value)
    if isinstance(value, type):
        return
    whole = getattr(kind, "_repr_mimebundle_", None)
    if whole is not None:
        told = _data(whole(value))
        if isinstance(told, dict):
            yield from told.items()
    for method, name in _METHODS.items():
        make = getattr(kind, method, None)
        form = None if make is None else _data(make(value))
        if form is not None:
            yield name, form


def _data(told: object) -> object:
    """Leave metadata out, which may come beside the data."""
    return told[0] if isinstance(told, tuple) and told else told


def _table(value: Any, made: Bundle) -> Iterator[tuple[str, object]]:
    """Yield a table of pandas as JSON."""
    pandas: Any = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, (pandas.DataFrame, pandas.Series)):
        return
    if len(value) > ROWS:
        made.cut[JSON] = f"the first {ROWS:,} of {len(value):,} rows"
        value = value.iloc[:ROWS]
    yield JSON, value.to_json(orient="split", date_format="iso").encode()


def _figure(value: Any, _: Bundle) -> Iterator[tuple[str, object]]:
    """Yield a figure of matplotlib as a picture."""
    module: Any = sys.modules.get("matplotlib.figure")
    if module is not None and isinstance(value, module.Figure):
        yield "image/png", figures.draw(value)


_MAKERS = (
    (_own_forms, "a form of the value could not be made"),
    (_table, "the table could not be made into JSON"),
    (_figure, "the figure could not be drawn"),
)


def _encode(name: str, form: object) -> bytes:
    if isinstance(form, (bytes, bytearray)):
        return bytes(form)
    if isinstance(form, str) and name in _BINARY:
        import binascii  # noqa: PLC0415

        return binascii.a2b_base64(form)
    if not isinstance(form, str):
        import json  # noqa: PLC0415

        form = json.dumps(form)
    return form.encode("utf-8", "backslashreplace")
