from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from serving import SettingsError, read
from workloadmanager._settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
GOOD = {
    "--listen": "unix:/run/cm/wm.sock",
    "--state": "/var/lib/cm",
    "--runtime": "/run/cm",
    "--mtls-cert-file": "/c",
    "--mtls-key-file": "/k",
    "--mtls-ca-file": "/b",
    "--router-id": ROUTER,
}


def told(*more: str, without: Iterable[str] = ()) -> Settings:
    pairs = [pair for pair in GOOD.items() if pair[0] not in without]
    argv = [word for pair in pairs for word in pair]
    return read(Settings, [*argv, *more], {}, "workloadmanager")


def faults(*more: str, without: Iterable[str] = ()) -> str:
    with pytest.raises(SettingsError) as caught:
        told(*more, without=without)
    return "\n".join(text for text, _ in caught.value.faults)


def test_defaults_are_safe() -> None:
    """MTLS on both hops, isolation on, sandboxes in a trust domain of their own."""
    settings = told()
    assert settings.enable_mtls
    assert (settings.picod_auth_mode, settings.isolation) == ("mtls", "bwrap")
    assert settings.sandbox_domain == "sandbox.cluster.local"
    assert settings.svid_ttl == 3600


def test_all_missing_flags_are_told_at_once() -> None:
    """An operator mends a command line in one round."""
    text = faults(without=[*GOOD])
    for name in ("--listen", "--state", "--runtime"):
        assert f"{name} is not set" in text
    text = faults(without=["--router-id", "--mtls-key-file", "--mtls-ca-file"])
    assert text.count("is not set") == 3


def test_an_agent_is_asked_instead_of_files() -> None:
    """The Workload API needs no file, and is not mixed with one."""
    agent = ("--spiffe-endpoint-socket", "unix:///run/agent.sock")
    files = ["--mtls-cert-file", "--mtls-key-file", "--mtls-ca-file"]
    assert told(*agent, without=files).tls is None
    text = faults(*agent, without=files[:2])
    assert text == "--mtls-ca-file and --spiffe-endpoint-socket are both set"


def test_a_runtime_folder_too_long_for_sockets_is_refused() -> None:
    """Said at the start, not when the first sandbox cannot listen."""
    longest = "/" + "r" * 62
    assert len(f"{longest}/sbx-{'a' * 26}/control.sock") == 107
    told("--runtime", longest)
    assert "64 bytes long, too long for sockets" in faults("--runtime", longest + "r")


def test_the_two_trust_domains_must_differ() -> None:
    """Who makes sandboxes' identities must not be able to make the Router's."""
    text = faults("--sandbox-trust-domain", "cluster.local")
    assert "is that of the services" in text

    text = faults("--sandbox-trust-domain", "evil.test", "--router-id", EVIL)
    assert "is that of the services" in text


EVIL = "spiffe://evil.test/ns/agentcube-system/sa/agentcube-router"


def test_an_authority_of_files_is_whole() -> None:
    """A certificate without its key, or roots alone, sign nothing."""
    certificate, key = ("--sandbox-ca-cert-file", "/c"), ("--sandbox-ca-key-file", "/k")
    roots = ("--sandbox-ca-bundle-file", "/r")
    assert told().ca_files is None
    found = told(*certificate, *key).ca_files
    assert found is not None
    assert found.bundle is None
    assert told(*certificate, *key, *roots).ca_files != found
    assert faults(*certificate) == "--sandbox-ca-key-file is not set"
    assert faults(*key) == "--sandbox-ca-cert-file is not set"
    assert faults(*roots).count("is not set") == 2


SPIRE = {
    "--sandbox-spire-server": "unix:///run/server.sock",
    "--sandbox-spire-agent": "unix:///run/admin.sock",
    "--sandbox-spire-parent": "spiffe://sandbox.cluster.local/host",
}


def test_a_spire_is_whole() -> None:
    """Server, agent and its ID; of the sandboxes' trust domain; and no authority."""
    words = [word for pair in SPIRE.items() for word in pair]
    spire = told(*words).spire
    assert spire is not None
    assert (spire.server, spire.agent) == (
        "unix:/run/server.sock",
        "unix:/run/admin.sock",
    )
    assert told().spire is None
    for name in SPIRE:
        rest = [word for pair in SPIRE.items() if pair[0] != name for word in pair]
        assert faults(*rest) == f"{name} is not set"
    files = ("--sandbox-ca-cert-file", "/c", "--sandbox-ca-key-file", "/k")
    assert "from an authority and from SPIRE" in faults(*words, *files)
    services = ("--sandbox-spire-parent", "spiffe://cluster.local/host")
    assert "is not of sandbox.cluster.local" in faults(*words[:4], *services)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("--no-enable-mtls",), "--picod-auth-mode jwt only"),
        (
            ("--no-enable-mtls", "--picod-auth-mode", "jwt", "--listen", "0.0.0.0:1"),
            "cannot listen on 0.0.0.0:1",
        ),
        (("--picod-auth-mode", "jwt"), "--jwt-public-keys-file is not set"),
        (("--namespace", "A_B"), "is no label"),
        (("--isolation", "chroot"), "--isolation"),
        (("--max-sessions", "0"), "--max-sessions"),
        (("--warm-min-ready", "9"), "--warm-min-ready 9 is more than"),
    ],
)
def test_mixes_that_do_not_protect_are_refused(
    flags: tuple[str, ...], fault: str
) -> None:
    """No mode is half on."""
    assert fault in faults(*flags)


def test_without_mtls_only_this_machine_may_call() -> None:
    """Loopback and Unix sockets; identity files are not asked for."""
    files = ["--mtls-cert-file", "--mtls-key-file", "--mtls-ca-file", "--router-id"]
    jwt = ["--no-enable-mtls", "--picod-auth-mode", "jwt", "--jwt-public-keys-file"]
    for listen in ("127.0.0.1:1", "[::1]:1", "unix:/run/wm.sock"):
        told(*jwt, "/keys", "--listen", listen, without=files)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_own_users_need_root() -> None:
    """A range that could never be used is a fault."""
    assert "needs root" in faults("--sandbox-uid-range", "1000-2000")


def test_flags_have_environment_twins(tmp_path: Path) -> None:
    """A flag wins over its twin."""
    environ = {
        "CUBEMESH_WORKLOADMANAGER_MAX_SESSIONS": "7",
        "CUBEMESH_WORKLOADMANAGER_STATE": str(tmp_path),
    }
    argv = [word for pair in GOOD.items() for word in pair]
    settings = read(Settings, argv, environ, "workloadmanager")
    assert settings.max_sessions == 7
    assert str(settings.state) == "/var/lib/cm"
