"""Reading the text of a template file, telling all of its faults with their lines."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
import yaml

from serving import COUNT, DURATION, NUMBER, SIZE
from workloadmanager._errors import TemplateFileError
from workloadmanager._ids import is_label
from workloadmanager._templates import (
    DEFAULT_MEMORY,
    ISOLATION_LEVELS,
    LIMITS,
    PYTHON,
    Template,
    Templates,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["parse_templates"]

_MAP, _BOOL = "tag:yaml.org,2002:map", "tag:yaml.org,2002:bool"
_LARGEST_NUMBER = 1 << 40  # bytes, pieces or seconds
_MOST_IMPORTS = 64
_LIFETIME = PYTHON.default_lifetime


def parse_templates(text: bytes, name: str) -> Templates:
    """Return the templates that the YAML *text* tells; *name* is its file's.

    Raises:
        TemplateFileError: with every fault there is.
    """
    try:
        root = yaml.compose(text.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise TemplateFileError([f"{name}: not YAML: {_one_line(error)}"]) from error
    reader = _Reader(name)
    templates = list(reader.templates(root))
    if reader.faults:
        raise TemplateFileError(reader.faults)
    return Templates(templates)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Reader:
    """Walks the nodes of one file and collects what is wrong with them."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.faults: list[str] = []

    def templates(self, root: yaml.Node | None) -> Iterator[Template]:
        if root is None:
            return
        for key, node in self._items(root, "the file", known={"templates"}):
            for name, body in self._items(node, key):
                if not is_label(name):
                    self._fault(body, name, "a name has 1 to 63 of a-z, 0-9 and -")
                elif (template := self._template(name, body)) is not None:
                    yield template

    def _template(self, name: str, body: yaml.Node) -> Template | None:
        before = len(self.faults)
        values: dict[str, Any] = {}
        for key, node in self._items(body, name, known=set(_FIELDS)):
            field, read = _FIELDS[key]
            values[field] = read(self, f"{name}.{key}", node)
        if len(self.faults) > before:
            return None
        if "default_lifetime" not in values and "maximum_lifetime" in values:
            values["default_lifetime"] = min(_LIFETIME, values["maximum_lifetime"])
        template = Template(name=name, **values)
        for fault in _faults(template):
            self._fault(body, name, fault)
        return template

    def text(self, place: str, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or "\0" in node.value:
            self._fault(node, place, "must be a text")
            return ""
        return str(node.value)

    def level(self, place: str, node: yaml.Node) -> str:
        level = self.text(place, node)
        if level not in ISOLATION_LEVELS:
            levels = " or ".join(ISOLATION_LEVELS)
            self._fault(node, place, f"{level!r} is no isolation level; say {levels}")
        return level

    def python(self, place: str, node: yaml.Node) -> str:
        path = self.text(place, node)
        if not path.startswith("/"):
            self._fault(node, place, f"{path!r} is not an absolute path")
        return path

    def modules(self, place: str, node: yaml.Node) -> tuple[str, ...]:
        if not isinstance(node, yaml.SequenceNode):
            self._fault(node, place, "must be a list of modules")
            return ()
        if len(node.value) > _MOST_IMPORTS:
            self._fault(node, place, f"has more than {_MOST_IMPORTS} modules")
        names = [self.text(place, each) for each in node.value]
        for name, each in zip(names, node.value, strict=True):
            if not all(part.isidentifier() for part in name.split(".")):
                self._fault(each, place, f"{name!r} is no name of a module")
            elif names.count(name) > 1:
                self._fault(each, place, f"{name!r} stands twice")
        return tuple(names)

    def switch(self, place: str, node: yaml.Node) -> bool:
        if node.tag != _BOOL:
            self._fault(node, place, "say true or false")
        return self.text(place, node).lower() in {"true", "yes", "on"}

    def duration(self, place: str, node: yaml.Node) -> timedelta | None:
        seconds = self._parsed(DURATION, place, node)
        return None if seconds is None else timedelta(seconds=seconds)

    def number(self, place: str, node: yaml.Node) -> int | None:
        return self._converted(NUMBER, place, node)

    def limits(self, place: str, node: yaml.Node) -> dict[str, float]:
        limits = {}
        for key, value in self._items(node, place, known=set(LIMITS)):
            parsed = self._parsed(_FORMS[LIMITS[key]], f"{place}.{key}", value)
            if parsed is not None:
                limits[key] = parsed
        return limits

    def environment(self, place: str, node: yaml.Node) -> dict[str, str]:
        variables = {}
        for key, value in self._items(node, place):
            if not key or "=" in key or "\0" in key:
                self._fault(value, place, f"{key!r} is no name of a variable")
            variables[key] = self.text(f"{place}.{key}", value)
        return variables

    def _parsed(
        self, form: click.ParamType[Any], place: str, node: yaml.Node
    ) -> Any | None:
        value = self._converted(form, place, node)
        if value is not None and not 0 < value <= _LARGEST_NUMBER:
            self._fault(node, place, f"{value:g} is out of range")
            return None
        return value

    def _converted(
        self, form: click.ParamType[Any], place: str, node: yaml.Node
    ) -> Any | None:
        try:
            return form.convert(self.text(place, node), None, None)
        except click.BadParameter as error:
            self._fault(node, place, error.message)
            return None

    def _items(
        self, node: yaml.Node, place: str, known: set[str] | None = None
    ) -> Iterator[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode) or node.tag != _MAP:
            self._fault(node, place, "must be a mapping")
            return
        seen = set()
        for key_node, value in node.value:
            key = self.text(place, key_node)
            if key in seen:
                self._fault(key_node, place, f"{key!r} stands twice")
            elif known is not None and key not in known:
                names = ", ".join(sorted(known))
                self._fault(key_node, place, f"{key!r} is unknown; known: {names}")
            else:
                seen.add(key)
                yield key, value

    def _fault(self, node: yaml.Node, place: str, text: str) -> None:
        line = node.start_mark.line + 1
        self.faults.append(f"{self._file}:{line}: {place}: {text}")


def _faults(template: Template) -> Iterator[str]:
    """Yield what does not go together."""
    if template.default_lifetime > template.maximum_lifetime:
        yield "lifetime is more than maximum_lifetime"
    if template.allow_network and template.isolation not in {"", "bwrap"}:
        yield f"allow_network is not there for isolation {template.isolation}"
    limits = template.limits
    files = limits.get("workspace", 0) + limits.get("scratch", 0)
    if files > limits.get("memory", DEFAULT_MEMORY):
        yield "files count as memory: workspace and scratch must leave room in it"
    least, most = template.min_ready, template.max_ready
    if least is not None and most is not None and least > most:
        yield "min_ready is more than max_ready"


_FORMS: dict[str, click.ParamType[Any]] = {
    "duration": DURATION,
    "size": SIZE,
    "count": COUNT,
}

_FIELDS: dict[str, tuple[str, Callable[[_Reader, str, yaml.Node], Any]]] = {
    "description": ("description", _Reader.text),
    "isolation": ("isolation", _Reader.level),
    "python": ("python", _Reader.python),
    "imports": ("imports", _Reader.modules),
    "allow_network": ("allow_network", _Reader.switch),
    "limits": ("limits", _Reader.limits),
    "lifetime": ("default_lifetime", _Reader.duration),
    "maximum_lifetime": ("maximum_lifetime", _Reader.duration),
    "idle_timeout": ("idle_timeout", _Reader.duration),
    "environment": ("environment", _Reader.environment),
    "min_ready": ("min_ready", _Reader.number),
    "max_ready": ("max_ready", _Reader.number),
}
