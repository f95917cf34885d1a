"""All that the authority process can be told, read once, every fault at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tlsloader import InvalidSpiffeIDError, parse_endpoint, parse_trust_domain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Settings", "SettingsError", "parse_duration"]

_SHORTEST, _LONGEST = timedelta(seconds=2), timedelta(days=365)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,253}")
_DURATION = re.compile(
    r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?", re.ASCII
)


class SettingsError(Exception):
    """Some settings are wrong; ``faults`` holds (error, hint) of each."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(error for error, _ in faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Settings:
    """What the authority makes, for whom, and how long it lasts."""

    state: Path
    trust_domain: str
    namespace: str
    user: str
    svid_ttl: timedelta
    agent: str | None = None

    @classmethod
    def read(cls, flags: Mapping[str, str | None]) -> Self:
        """Check the texts of the flags, by field name.

        Raises:
            SettingsError: some are wrong; it tells of all of them.
        """
        texts = {name: text or "" for name, text in flags.items()}
        faults = [
            *_missing(texts),
            *_domain_faults(texts["trust_domain"]),
            *_segment_faults("--namespace", texts["namespace"]),
            *_segment_faults("--user", texts["user"]),
            *_ttl_faults(texts["svid_ttl"]),
            *_agent_faults(texts["spiffe_endpoint_socket"]),
            *_state_faults(Path(texts["state"])),
        ]
        if faults:
            raise SettingsError(faults)
        return cls(
            state=Path(texts["state"]),
            trust_domain=parse_trust_domain(texts["trust_domain"]),
            namespace=texts["namespace"],
            user=texts["user"],
            svid_ttl=parse_duration(texts["svid_ttl"]),
            agent=texts["spiffe_endpoint_socket"] or None,
        )


def parse_duration(text: str) -> timedelta:
    """Return the time written like ``1h``, ``90s``, ``1h30m`` or ``250ms``.

    Raises:
        ValueError: *text* is not so written.
    """
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"{text!r} is no duration")
    hours, minutes, seconds, millis = (float(part or 0) for part in match.groups())
    try:
        return timedelta(
            hours=hours, minutes=minutes, seconds=seconds, milliseconds=millis
        )
    except OverflowError:
        raise ValueError(f"{text!r} is longer than time itself") from None


def _missing(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if not texts["state"]:
        yield "--state is missing", "name the folder of the mesh"
    if not texts["user"]:
        yield "--user is missing", "name the local caller, say --user $USER"


def _domain_faults(text: str) -> Iterator[tuple[str, str]]:
    try:
        parse_trust_domain(text)
    except InvalidSpiffeIDError as error:
        yield f"--trust-domain: {error}", "give a name such as cluster.local"


def _segment_faults(flag: str, text: str) -> Iterator[tuple[str, str]]:
    if text and (not _SEGMENT.fullmatch(text) or text in {".", ".."}):
        hint = "use letters, digits, dots, dashes and underscores"
        yield f"{flag}: {text!r} cannot stand in a SPIFFE ID", hint


def _ttl_faults(text: str) -> Iterator[tuple[str, str]]:
    try:
        ttl = parse_duration(text)
    except ValueError as error:
        yield f"--svid-ttl: {error}", "write it like 1h, 90s or 1h30m"
        return
    if ttl < _SHORTEST:
        hint = "certificates know whole seconds; give 2s or more"
        yield f"--svid-ttl: {text} is too short", hint
    if ttl > _LONGEST:
        hint = "the authority itself lives a year; give 24h or less"
        yield f"--svid-ttl: {text} is too long", hint


def _agent_faults(text: str) -> Iterator[tuple[str, str]]:
    try:
        parse_endpoint(text or "unix:///none")
    except ValueError as error:
        yield f"--spiffe-endpoint-socket: {error}", "give the socket of a SPIFFE agent"


def _state_faults(state: Path) -> Iterator[tuple[str, str]]:
    try:
        mode = state.stat().st_mode
    except FileNotFoundError:
        return  # it will be made
    except OSError as error:
        hint = "name a folder of your own"
        yield f"--state: {state} cannot be used ({error.strerror})", hint
        return
    if not state.is_dir():
        yield f"--state: {state} is no folder", "name a folder of your own"
    elif mode & 0o022:
        yield f"--state: others can write to {state}", f"chmod go-w {state}"
