from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cubemesh import ConfigurationError, Profile
from cubemesh._profile import locate

PROFILE = Profile("127.0.0.1:1", "/ca.pem", "/svid.pem", "/key.pem", state="/state")


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """A profile survives the way to disk, and only we can read it there."""
    path = tmp_path / "sub" / "one.json"
    PROFILE.write(path)
    assert Profile.load(path) == PROFILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["one.json"]


def test_holds_no_key(tmp_path: Path) -> None:
    """Only paths and addresses stand in it."""
    PROFILE.write(path := tmp_path / "one.json")
    assert set(json.loads(path.read_text())) == {
        "version",
        "address",
        "ca_file",
        "cert_file",
        "key_file",
        "server_name",
        "state",
        "instance",
    }


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    """Who could write the profile could send our calls elsewhere."""
    PROFILE.write(path := tmp_path / "one.json")
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="others can write") as caught:
        Profile.load(path)
    assert "chmod go-w" in caught.value.hint


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """Who can write the folder can replace the file."""
    PROFILE.write(path := tmp_path / "open" / "one.json")
    path.parent.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can write"):
        Profile.load(path)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    """A profile that another user owns is not ours."""
    PROFILE.write(path := tmp_path / "one.json")
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigurationError, match="another user"):
        Profile.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"version": 2}',
        b'{"version": 1}',
        b'{"version": 1, "address": 3}',
        b"[" * 60000,
        b" " * 70000,
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, content: bytes) -> None:
    """Strictly: wrong version, missing, unknown or wrongly typed fields, anything."""
    path = tmp_path / "one.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not a profile"):
        Profile.load(path)


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    """What we do not understand might be meant to protect somebody."""
    PROFILE.write(path := tmp_path / "one.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more": "x"}))
    with pytest.raises(ConfigurationError, match="more"):
        Profile.load(path)


def test_a_missing_one_says_how_to_get_one(tmp_path: Path) -> None:
    """The first error of most users names the command that mends it."""
    with pytest.raises(ConfigurationError) as caught:
        Profile.load(tmp_path / "none.json")
    assert "cubemesh up" in caught.value.hint


def test_a_pipe_in_its_place_does_not_block(tmp_path: Path) -> None:
    """Reading does not wait for whoever holds the other end."""
    os.mkfifo(path := tmp_path / "one.json", 0o600)
    with pytest.raises(ConfigurationError, match="is not a file"):
        Profile.load(path)


def test_only_our_own_is_removed(tmp_path: Path) -> None:
    """A mesh that ends leaves the profile of its successor alone."""
    path = tmp_path / "one.json"
    successor = Profile("127.0.0.1:2", "/ca.pem", "/svid.pem", "/key.pem")
    successor.write(path)
    PROFILE.remove(path)
    assert path.exists()
    successor.remove(path)
    assert not path.exists()


def test_where_profiles_live() -> None:
    """A name, a path, the variable, the default: in this order."""
    environ = {"XDG_CONFIG_HOME": "/config"}
    folder = Path("/config/cubemesh/profiles")
    assert locate(None, environ) == folder / "default.json"
    assert locate("two", environ) == folder / "two.json"
    assert locate("/a/b.json", environ) == Path("/a/b.json")
    environ["CUBEMESH_PROFILE"] = "/c/d.json"
    assert locate(None, environ) == Path("/c/d.json")
    assert locate("two", environ) == folder / "two.json"


@pytest.mark.parametrize("name", ["..", ".x", "a b", "x" * 65, "a\n"])
def test_names_cannot_leave_their_folder(name: str) -> None:
    """A name is one plain word."""
    with pytest.raises(ConfigurationError, match="cannot be the name"):
        locate(name, {})
