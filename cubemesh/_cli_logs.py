"""``cubemesh logs``: what the services of a mesh on this machine write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cubemesh._errors import ConfigurationError
from cubemesh._options import json_option, profile_option
from cubemesh._profile import Profile, locate

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLL = 0.2  # seconds
_HIDDEN = {"timestamp", "level", "service", "event", "logger"}


@click.command("logs")
@click.option("--follow", "-f", is_flag=True, help="Go on as more is written.")
@click.option("--lines", "-n", default=200, help="How many of the last ones.")
@profile_option
@json_option
@click.argument("name", default="")
def logs_command(
    *, follow: bool, lines: int, profile: str | None, as_json: bool, name: str
) -> None:
    """Show logs: of all services, of one (router, sbx-…), or about one session."""
    folder = _folder(profile)
    is_session = name.startswith("ses-")
    tails = _Tails(folder, "*" if is_session or not name else name)
    records = sorted(tails.read(), key=lambda pair: str(pair[0].get("timestamp", "")))
    wanted = [pair for pair in records if not is_session or name in pair[1]]
    for pair in wanted[-lines:]:
        _show(*pair, as_json=as_json)
    while follow:
        time.sleep(_POLL)
        for pair in tails.read():
            if not is_session or name in pair[1]:
                _show(*pair, as_json=as_json)


class _Tails:
    """The logs of a folder, each read from where the last look ended."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._read: dict[Path, int] = {}

    def read(self) -> Iterator[tuple[dict[str, Any], str]]:
        for path in sorted(self._folder.glob(f"{self._name}.log")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                yield _parsed(line, path.stem), line


def _folder(profile: str | None) -> Path:
    found = Profile.load(locate(profile))
    if not found.state:
        message = "the mesh of this profile does not run on this machine"
        raise ConfigurationError(message, hint="look at the logs where it runs")
    return Path(found.state) / "logs"


def _parsed(line: str, service: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return {"service": service, "event": line, "level": "", "timestamp": ""}
    if "event" not in record:  # SPIRE's
        event, moment = record.pop("msg", ""), record.pop("time", "")
        record |= {"service": service, "event": event, "timestamp": moment}
    return record


def _show(record: dict[str, Any], line: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(line)
        return
    more = " ".join(f"{k}={v}" for k, v in record.items() if k not in _HIDDEN)
    moment = str(record.get("timestamp", ""))[:23]
    head = f"{moment:23} {record.get('level', ''):8} {record.get('service', ''):16}"
    click.echo(f"{head} {record.get('event', '')} {more}".rstrip())
