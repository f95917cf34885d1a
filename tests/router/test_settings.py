"""What the Router can be told, and what does not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from router._settings import Settings
from serving import SettingsError, read
from tlsloader import Allowlist, SpiffeID

if TYPE_CHECKING:
    from pathlib import Path

NEEDED = {
    "--workloadmanager": "unix:/run/wm.sock",
    "--workloadmanager-id": "spiffe://cluster.local/ns/a/sa/workloadmanager",
    "--mtls-cert-file": "c",
    "--mtls-key-file": "k",
    "--mtls-ca-file": "b",
}
AGENT = "unix:///run/spire/agent.sock"
JWT = ("--picod-auth-mode", "jwt")
KEYS = ("--jwt-signing-key-file", "s", "--jwt-public-keys-file", "p")


def told(*more: str, without: str = "", **environ: str) -> Settings:
    pairs = [
        (name, value)
        for name, value in NEEDED.items()
        if not without or not name.startswith(without)
    ]
    argv = [word for pair in pairs for word in pair]
    return read(Settings, [*argv, *more], environ, "router")


def faults(*more: str, without: str = "", **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        told(*more, without=without, **environ)
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


def test_tls_1_3_unless_told_otherwise() -> None:
    """One flag for all doors and ways; what is older than TLS 1.2 cannot be had."""
    assert told().tls_min_version == "1.3"
    assert told("--tls-min-version", "1.2").tls_min_version == "1.2"
    (fault,) = faults("--tls-min-version", "1.1")
    assert fault.startswith("--tls-min-version: '1.1' is not one of '1.2', '1.3'")


@pytest.mark.parametrize("flag", ["--client-ids", "--admin-ids"])
def test_a_list_in_a_file_must_be_there_and_good(flag: str, tmp_path: Path) -> None:
    """Each fault is told at the start, with the line; both ways at once are one."""
    file = tmp_path / "ids"
    (fault,) = faults(f"{flag}-file", str(file))
    assert fault.startswith(f"{flag}-file: {file} does not exist")
    file.write_text("# us\nspiffe://cluster.local/user/\n\nnonsense\n")
    (fault,) = faults(f"{flag}-file", str(file))
    assert fault.startswith(f"{flag}-file: {file}, line 4: 'nonsense' admits nobody")
    file.write_text("spiffe://cluster.local/user/ada  # the first\n")
    assert told(f"{flag}-file", str(file))
    (fault,) = faults(f"{flag}-file", str(file), flag, "spiffe://cluster.local/user/")
    assert fault == f"{flag} and {flag}-file are both set"


def test_clients_in_a_file_replace_the_default(tmp_path: Path) -> None:
    """An empty file admits nobody, not those of the default."""
    file = tmp_path / "ids"
    file.write_text("spiffe://cluster.local/team/a\n")
    clients = told("--client-ids-file", str(file)).clients("cluster.local")
    assert str(clients) == "spiffe://cluster.local/team/a"
    file.write_text("# nobody yet\n")
    clients = told("--client-ids-file", str(file)).clients("cluster.local")
    assert clients == Allowlist()


def test_an_agent_is_asked_instead_of_files() -> None:
    """The Workload API needs its socket only, and finds it as all its clients do."""
    for settings in (
        told("--spiffe-endpoint-socket", AGENT, without="--mtls"),
        told(without="--mtls", CUBEMESH_ROUTER_SPIFFE_ENDPOINT_SOCKET=AGENT),
        told(without="--mtls", SPIFFE_ENDPOINT_SOCKET=AGENT),
    ):
        assert (settings.spiffe_endpoint_socket, settings.tls) == (AGENT, None)


def test_files_win_over_the_common_variable() -> None:
    """It may be set for other programs of the same host."""
    assert told(SPIFFE_ENDPOINT_SOCKET=AGENT).spiffe_endpoint_socket is None
    assert told(SPIFFE_ENDPOINT_SOCKET="tcp://127.0.0.1:1").tls is not None


def test_two_sources_of_one_identity_are_refused() -> None:
    """Nobody should have to guess which of the two is in use."""
    found = faults("--spiffe-endpoint-socket", AGENT, without="--mtls-key")
    assert found == [
        f"{name} and --spiffe-endpoint-socket are both set"
        for name in ("--mtls-cert-file", "--mtls-ca-file")
    ]


def test_only_an_agent_is_told_whom_to_give() -> None:
    """Files hold one identity; a wish about them would not be heard."""
    wish = ("--spiffe-id", "spiffe://cluster.local/ns/a/sa/router")
    agent = ("--spiffe-endpoint-socket", AGENT)
    assert str(told(*agent, *wish, without="--mtls").spiffe_id) == wish[1]
    (fault,) = faults(*wish)
    assert fault == "--spiffe-id goes with --spiffe-endpoint-socket only"


def test_an_identity_is_needed() -> None:
    """Each file that is missing is told, and the other way."""
    assert len(faults(without="--mtls")) == 3
    (fault,) = faults(without="--mtls-key")
    assert fault == "--mtls-key-file is not set"


@pytest.mark.parametrize(
    "text",
    [
        "tcp://127.0.0.1:1",
        "unix://host/x",
        "unix:x",
        "unix:///x?y",
        "/x",
        "unix:///%41",
    ],
)
def test_an_agent_is_reached_by_its_unix_socket_only(text: str) -> None:
    """Over anything else it could not tell who asks."""
    (fault,) = faults(without="--mtls", SPIFFE_ENDPOINT_SOCKET=text)
    assert fault.startswith(f"SPIFFE_ENDPOINT_SOCKET: {text!r} is not unix:///path")


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


def test_workers_need_a_port() -> None:
    """A socket in the file system cannot be shared."""
    shared = ("--workers", "2", "--listen", "unix:/run/router.sock")
    assert len(faults(*shared)) == 1


def test_each_worker_gives_its_own_figures() -> None:
    """All listen at one address; for Prometheus they stand side by side."""
    settings = told("--workers", "3", "--metrics-listen", "127.0.0.1:9100")
    workers = [settings.worker("127.0.0.1:443", number) for number in range(3)]
    assert {each.listen for each in workers} == {"127.0.0.1:443"}
    assert [each.metrics_listen[-4:] for each in workers] == ["9100", "9101", "9102"]
    anywhere = told("--workers", "2").worker("127.0.0.1:443", 1)
    assert anywhere.metrics_listen == "127.0.0.1:0"
