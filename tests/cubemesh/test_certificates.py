"""`cubemesh doctor certificates`: what the profile adds to what one says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cubemesh import _certificates
from cubemesh._certificates import examine, flags_of
from cubemesh._errors import ConfigurationError
from cubemesh._machine import Check
from cubemesh._profile import Profile
from tests.forge import Forge

if TYPE_CHECKING:
    from pathlib import Path

PROFILE = Profile("router.test:443", "/m/ca.pem", "/m/svid.pem", "/m/key.pem")
FILES = (
    *("--mtls-cert-file", "/m/svid.pem"),
    *("--mtls-key-file", "/m/key.pem"),
    *("--mtls-ca-file", "/m/ca.pem"),
)
ROUTER = ("--target", "router.test:443", "--server-name", "agentcube-router")
AGENT = ("--spiffe-endpoint-socket", "unix:///run/agent.sock")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    PROFILE.write(tmp_path / "profile.json")
    return {"CUBEMESH_PROFILE": str(tmp_path / "profile.json")}


@pytest.mark.parametrize(
    ("flags", "added"),
    [
        ((), (*FILES, *ROUTER)),
        (("--trust-bundle", "other.test=/x.pem"), (*FILES, *ROUTER)),
        (("--target", "other:1"), FILES),
        (("--target=other:1",), FILES),
        (AGENT, ()),
        (("--mtls-credential-bundle-file=/x.pem",), ()),
    ],
)
def test_the_profile_fills_in_what_is_not_said(
    flags: tuple[str, ...], added: tuple[str, ...], environ: dict[str, str]
) -> None:
    """Whose identity it is and which server belong together, unless one says both."""
    assert tuple(flags_of(None, flags, environ)) == added


def test_variables_count_as_flags(environ: dict[str, str]) -> None:
    """A twin that is set must not be overruled by a flag that nobody gave."""
    told = {**environ, "CUBEMESH_DOCTOR_MTLS_CERT_FILE": "/x.pem"}
    assert tuple(flags_of(None, (), told)) == ()
    told = {**environ, "CUBEMESH_DOCTOR_TARGET": "other:1"}
    assert tuple(flags_of(None, (), told)) == FILES


def test_a_named_profile_gives_its_router_to_any_identity(
    environ: dict[str, str],
) -> None:
    """So one can ask whether the mesh would take a service."""
    assert tuple(flags_of(environ["CUBEMESH_PROFILE"], AGENT, {})) == ROUTER


def test_without_a_profile_there_has_to_be_an_identity(tmp_path: Path) -> None:
    """The agent that everybody knows by its variable is one."""
    nowhere = {"CUBEMESH_PROFILE": str(tmp_path / "none.json")}
    with pytest.raises(ConfigurationError, match="no profile at") as caught:
        flags_of(None, (), nowhere)
    assert "--mtls-cert-file" in caught.value.hint
    agent = {**nowhere, "SPIFFE_ENDPOINT_SOCKET": "unix:///run/agent.sock"}
    assert flags_of(None, (), agent) == ()


def test_says_when_the_services_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel of the command line alone cannot look into certificates."""
    missing = Check("services", ok=False, detail="missing: router", hint="pip install")
    monkeypatch.setattr(_certificates, "services", lambda: missing)
    with pytest.raises(ConfigurationError, match="missing: router") as caught:
        examine(None, (), {})
    assert caught.value.hint == "pip install"


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv", [("--json", "certificates"), ("certificates", "--json")]
)
def test_the_command_becomes_the_services_doctor(
    argv: tuple[str, ...], tmp_path: Path
) -> None:
    """Its output and its status are the command's; options may stand before it."""
    files = Forge().write(tmp_path / "user", "spiffe://cluster.local/user/ada")
    paths = map(str, (files.bundle, files.chain, files.key))
    Profile("127.0.0.1:1", *paths).write(tmp_path / "profile.json")
    done = subprocess.run(
        [sys.executable, "-I", "-m", "cubemesh", "doctor", *argv],
        capture_output=True,
        env={
            "PATH": os.defpath,
            "CUBEMESH_PROFILE": str(tmp_path / "profile.json"),
        },
        timeout=60,
        check=False,
    )
    said = json.loads(done.stdout)
    assert (done.stderr, done.returncode, said["ok"]) == (b"", 1, False)
    states = {each["name"]: each["state"] for each in said["checks"]}
    assert states["identity"] == "ok"
    assert states["connection at 127.0.0.1:1"] == "failed"
