"""JSON and base64url without the liberties that let two readers read two things.

Source: RFC 8725, sections 2.4 and 3; RFC 8259, section 4.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Final, NoReturn

__all__ = ["decode_base64url", "encode_base64url", "parse_object"]

_MAX_DEPTH: Final = 4
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")


def parse_object(raw: bytes, limit: int, *, depth: int = _MAX_DEPTH) -> dict[str, Any]:
    """Return the JSON object in *raw*, of at most *limit* bytes.

    Refused: a key that stands twice, floats, NaN and infinities, invalid UTF-8, a
    byte order mark, nesting deeper than *depth*.

    Raises:
        ValueError: says which; it never quotes the text.
    """
    if len(raw) > limit:
        raise ValueError(f"longer than {limit} bytes")
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one kind for callers
    _check_depth(value, depth)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(_: str) -> NoReturn:
    raise ValueError("a number that is no integer")


def _check_depth(value: Any, left: int) -> None:
    children = value.values() if isinstance(value, dict) else value
    for child in children:
        if isinstance(child, (dict, list)):
            if left <= 1:
                raise ValueError("nested too deeply")
            _check_depth(child, left - 1)


def encode_base64url(raw: bytes) -> str:
    """Return *raw* in base64url without padding. Source: RFC 7515, appendix C."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes:
    """Return the bytes that *text* is the one canonical base64url form of.

    Raises:
        ValueError: padding, strange characters, or stray bits at the end.
    """
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("not base64url")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(raw) != text:
        raise ValueError("not canonical base64url")
    return raw
