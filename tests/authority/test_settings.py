from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from authority._settings import Settings, SettingsError, parse_duration

if TYPE_CHECKING:
    from pathlib import Path


def read(**flags: str | None) -> Settings:
    good = {
        "state": "/nonexistent/state",
        "trust_domain": "cluster.local",
        "namespace": "agentcube-system",
        "user": "ann",
        "svid_ttl": "1h",
        "spiffe_endpoint_socket": None,
    }
    return Settings.read({**good, **flags})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("90s", 90), ("1h30m", 5400), ("2500ms", 2.5), ("2.5s", 2.5)],
)
def test_reads_durations(text: str, seconds: float) -> None:
    """A life is written as people write it."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "h", "-1s", "1 h", "1s1h", "\u0661s", "1s\n"]
)
def test_refuses_what_is_no_duration(text: str) -> None:
    """A number without a unit could mean anything."""
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "1999ms", "400000h", "1e3s", "9" * 20 + "h"])
def test_refuses_a_life_that_no_certificate_has(text: str) -> None:
    """Neither too short for whole seconds nor longer than the authority."""
    with pytest.raises(SettingsError, match="--svid-ttl"):
        read(svid_ttl=text)


@pytest.mark.parametrize("flag", ["state", "user"])
def test_some_flags_have_no_default(flag: str) -> None:
    """Where keys go and whose they are has to be said."""
    with pytest.raises(SettingsError) as caught:
        read(**{flag: None})
    assert caught.value.faults[0][0] == f"--{flag} is missing"


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_uses_no_state_that_others_can_write(mode: int, tmp_path: Path) -> None:
    """In a folder that others write, they could put their own root."""
    tmp_path.chmod(mode)
    with pytest.raises(SettingsError, match="others can write"):
        read(state=str(tmp_path))
    tmp_path.chmod(0o700)
    assert read(state=str(tmp_path)).state == tmp_path


def test_a_file_is_no_state_folder(tmp_path: Path) -> None:
    """A mistyped --state is said before anything is written."""
    (tmp_path / "file").touch(mode=0o600)
    with pytest.raises(SettingsError, match="is no folder"):
        read(state=str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="cannot be used"):
        read(state=str(tmp_path / "file" / "below"))


def test_takes_from_an_agent_behind_a_unix_socket() -> None:
    """Only there can an agent know to whom it gives the user's identity."""
    assert read().agent is None
    assert read(spiffe_endpoint_socket="unix:///run/agent.sock").agent
    with pytest.raises(SettingsError, match="is not unix:///path"):
        read(spiffe_endpoint_socket="tcp://127.0.0.1:1")
