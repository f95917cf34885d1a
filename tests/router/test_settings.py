"""What the Router can be told, and what does not go together."""

from __future__ import annotations

import pytest

from router._settings import Settings
from serving import SettingsError, read
from tlsloader import SpiffeID

NEEDED = {
    "--workloadmanager": "unix:/run/wm.sock",
    "--workloadmanager-id": "spiffe://cluster.local/ns/a/sa/workloadmanager",
    "--mtls-cert-file": "c",
    "--mtls-key-file": "k",
    "--mtls-ca-file": "b",
}
JWT = ("--picod-auth-mode", "jwt")
KEYS = ("--jwt-signing-key-file", "s", "--jwt-public-keys-file", "p")


def told(*more: str, without: str = "") -> Settings:
    pairs = [(name, value) for name, value in NEEDED.items() if name != without]
    argv = [word for pair in pairs for word in pair]
    return read(Settings, [*argv, *more], {}, "router")


def faults(*more: str, without: str = "") -> list[str]:
    with pytest.raises(SettingsError) as caught:
        told(*more, without=without)
    assert all(hint for _, hint in caught.value.faults)
    return [text for text, _ in caught.value.faults]


def test_the_needed_flags_are_enough() -> None:
    """Everything else has a default that suits and is safe."""
    settings = told()
    assert settings.enable_mtls
    assert settings.picod_auth_mode == "mtls"
    assert not settings.forward_unknown_methods
    assert not settings.reflection
    assert settings.metrics_listen.startswith("127.")


def test_users_of_our_own_domain_come_in() -> None:
    """Without --client-ids: /user/ of our own trust domain, whole segments."""
    clients = told().clients("cluster.local")
    for text, admitted in {
        "spiffe://cluster.local/user/ada": True,
        "spiffe://cluster.local/users/ada": False,
        "spiffe://cluster.local/user": False,
        "spiffe://cluster.local/ns/a/sa/agentcube-router": False,
        "spiffe://sandbox.cluster.local/user/ada": False,
    }.items():
        assert clients.admits(SpiffeID.parse(text)) == admitted, text


def test_named_clients_replace_the_default() -> None:
    """Who names clients admits those only."""
    settings = told("--client-ids", "spiffe://cluster.local/team/a")
    clients = settings.clients("cluster.local")
    assert clients.admits(SpiffeID.parse("spiffe://cluster.local/team/a"))
    assert not clients.admits(SpiffeID.parse("spiffe://cluster.local/user/ada"))


def test_nobody_is_administrator_by_default() -> None:
    """Rights over everybody's sessions have to be given."""
    assert told().admin_ids == ()


def test_mtls_needs_to_know_the_manager() -> None:
    """An identity that is not expected cannot be proven."""
    (fault,) = faults(without="--workloadmanager-id")
    assert "--workloadmanager-id" in fault


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--no-enable-mtls",), "--picod-auth-mode mtls"),
        (
            ("--no-enable-mtls", *JWT, *KEYS, "--workloadmanager", "10.0.0.1:1"),
            "on this machine",
        ),
        (JWT, "needs keys"),
        (("--jwt-rotation", "59s"), "--jwt-rotation"),
        (("--client-ids", "spiffe://other/user/"), "spiffe://other/user/"),
        (("--admin-ids", "spiffe://other/root"), "spiffe://other/root"),
        (("--max-concurrent-calls", "0"), "--max-concurrent-calls"),
        (("--listen", "nowhere"), "--listen"),
    ],
)
def test_what_does_not_go_together_is_refused(more: tuple[str, ...], word: str) -> None:
    """Each unsafe or impossible mix is named, with a hint."""
    assert any(word in fault for fault in faults(*more))


@pytest.mark.parametrize(
    "address", ["unix:/x", "127.0.0.1:1", "localhost:1", "[::1]:1"]
)
def test_without_mtls_only_this_machine(address: str) -> None:
    """Loopback and Unix sockets are what plain text is for."""
    settings = told("--no-enable-mtls", *JWT, *KEYS, "--workloadmanager", address)
    assert settings.workloadmanager == address


def test_all_faults_are_told_at_once() -> None:
    """Nobody has to start the Router once per mistake."""
    assert len(faults("--no-enable-mtls", "--jwt-rotation", "1s")) == 2
