"""The kinds of values flags take: each turns text into a checked value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import click

from tlsloader import SpiffeID, parse_endpoint, parse_matcher, parse_trust_domain

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ADDRESS",
    "COUNT",
    "DURATION",
    "FILE",
    "FOLDER",
    "ID_RANGE",
    "LISTEN",
    "LOG_LEVEL",
    "MATCHER",
    "NUMBER",
    "OTLP",
    "PAIR",
    "PATH",
    "SIZE",
    "SPIFFE_ID",
    "TRUST_BUNDLE",
    "TRUST_DOMAIN",
    "WORKLOAD_API",
    "FlagType",
]

_SOCKET_PATH_LIMIT = 107  # what gRPC and the kernel take
_PORT_LIMIT = 65535
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d{1,15})(|B|KiB|MiB|GiB)", re.ASCII)
_RANGE = re.compile(r"(\d{1,10})-(\d{1,10})", re.ASCII)
_HOST_PORT = re.compile(
    r"(?:\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+):(\d{1,5})", re.ASCII
)


class FlagType(click.ParamType[Any]):
    """A kind of value made from *parse*, which raises ValueError with the reason."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the parsed value; what is no text any more passes."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except (ValueError, OSError) as error:
            self.fail(str(error), param, ctx)

    def split_envvar_value(self, rv: str) -> list[str]:
        """Several values in one variable stand apart by commas."""
        return [part for part in (each.strip() for each in rv.split(",")) if part]


def _refuse(value: str, wanted: str) -> NoReturn:
    raise ValueError(f"{value!r} is not {wanted}")


def _duration(text: str) -> float:
    if not _DURATION.fullmatch(text):
        _refuse(text, "a duration such as 250ms, 5s, 1h30m")
    parts = _DURATION_PART.findall(text)
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def _size(text: str) -> int:
    if (found := _SIZE.fullmatch(text)) is None:
        _refuse(text, "a size such as 4096, 64KiB, 1GiB")
    return int(found[1]) * _BYTES[found[2]]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len("1000000000")):
        _refuse(text, "a whole number")
    return int(text)


def _count(text: str) -> int:
    if _number(text) < 1:
        _refuse(text, "above 0")
    return int(text)


def _listen(text: str) -> str:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            _refuse(text, "unix: and an absolute path")
        if len(path.encode()) > _SOCKET_PATH_LIMIT:
            raise ValueError(
                f"the socket path {path!r} is longer than {_SOCKET_PATH_LIMIT} bytes"
            )
        return text
    found = _HOST_PORT.fullmatch(text)
    if found is None or int(found[1]) > _PORT_LIMIT:
        _refuse(text, "host:port, [v6]:port or unix:/path")
    return text


def _address(text: str) -> str:
    if _listen(text).endswith(":0"):
        raise ValueError(f"{text!r}: nobody can be reached at port 0")
    return text


def _path(text: str) -> Path:
    if not text or "\0" in text:
        _refuse(text, "a path")
    return Path(text)


def _file(text: str) -> Path:
    if not (path := _path(text)).is_file():
        _refuse(text, "an existing file")
    return path


def _folder(text: str) -> Path:
    if not (path := _path(text)).is_dir():
        _refuse(text, "an existing folder")
    return path


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        _refuse(text, "NAME=VALUE")
    return name, value


def _id_range(text: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    if found is None or not 0 < int(found[1]) <= int(found[2]) < (1 << 32) - 1:
        _refuse(text, "a range FIRST-LAST of ids above 0")
    return int(found[1]), int(found[2])


def _trust_domain(text: str) -> str:
    if "/" in text or not text:
        _refuse(text, "a trust domain such as cluster.local")
    return parse_trust_domain(text)


def _workload_api(text: str) -> str:
    parse_endpoint(text)
    return text


def _otlp(text: str) -> str:
    found = urlsplit(text)
    if found.scheme not in {"http", "https"} or not found.hostname:
        _refuse(text, "a URL such as http://127.0.0.1:4317")
    if found.username or found.password:
        raise ValueError("no secrets in the URL of a collector")
    return text


def _trust_bundle(text: str) -> tuple[str, Path]:
    domain, separator, file = text.partition("=")
    if not separator:
        _refuse(text, "TRUST-DOMAIN=FILE")
    return _trust_domain(domain), _path(file)


DURATION = FlagType("duration", _duration)
"""``250ms``, ``5s``, ``1h30m`` → seconds as float."""
SIZE = FlagType("size", _size)
"""``4096``, ``64KiB``, ``1GiB`` → bytes as int."""
NUMBER = FlagType("number", _number)
"""A whole number, 0 and above."""
COUNT = FlagType("count", _count)
"""A whole number above 0."""
LISTEN = FlagType("host:port|unix:/path", _listen)
"""An address to listen on, port 0 for any free one → the text itself."""
ADDRESS = FlagType("host:port|unix:/path", _address)
"""An address to dial → the text itself."""
PATH = FlagType("path", _path)
"""A path that need not exist yet → `Path`."""
FILE = FlagType("file", _file)
"""An existing file → `Path`."""
FOLDER = FlagType("folder", _folder)
"""An existing folder → `Path`."""
PAIR = FlagType("name=value", _pair)
"""→ (name, value); meant for ``flag(mapping=True)``."""
ID_RANGE = FlagType("first-last", _id_range)
"""A range of user ids, both ends included → (first, last)."""
SPIFFE_ID = FlagType("spiffe-id", SpiffeID.parse)
"""→ `tlsloader.SpiffeID`."""
MATCHER = FlagType("matcher", parse_matcher)
"""An exact ID, ``spiffe://td/path/`` or ``spiffe://td/`` → `tlsloader.Matcher`."""
TRUST_DOMAIN = FlagType("trust-domain", _trust_domain)
"""→ its name as text."""
TRUST_BUNDLE = FlagType("trust-domain=file", _trust_bundle)
"""→ (trust domain, `Path`); meant for ``flag(mapping=True)``."""
WORKLOAD_API = FlagType("unix:///path", _workload_api)
"""The socket of a SPIFFE agent → the text itself."""
OTLP = FlagType("url", _otlp)
"""Where a collector takes traces by OTLP over gRPC → the text itself."""
LOG_LEVEL = click.Choice(["debug", "info", "warning", "error"])
"""→ the word itself."""
