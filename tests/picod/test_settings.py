"""What PicoD accepts as its configuration."""

from __future__ import annotations

import pytest

from picod._settings import Settings
from serving import SettingsError, read

SANDBOX = "sbx-" + "a" * 26
DOORS = ["--listen", "unix:/r/data", "--control-listen", "unix:/r/control"]
JWT = ["--picod-auth-mode", "jwt", "--jwt-public-keys-file", "/s/public.json"]
BASE = [*DOORS, "--sandbox-id", SANDBOX, "--python", "/proc/self/exe"]


def faults(*argv: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(Settings, argv, {}, "picod")
    return [text for text, _ in caught.value.faults]


def test_takes_limits_in_their_units() -> None:
    """Sizes and times are told as people write them."""
    limits = ("memory=2GiB", "timeout=1m", "processes=7")
    flags = [flag for limit in limits for flag in ("--limit", limit)]
    settings = read(Settings, [*BASE, *JWT, *flags], {}, "picod")
    told = settings.runner_limits
    assert (told.memory, told.timeout, told.processes) == (2 << 30, 60.0, 7)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("colour=1", "there is no limit 'colour'"),
        ("memory=0", "memory must be above 0"),
        ("timeout=5", "is not a duration"),
        ("memory", "is not NAME=VALUE"),
    ],
)
def test_refuses_strange_limits(limit: str, said: str) -> None:
    """A limit that would not hold is no limit."""
    (fault,) = faults(*BASE, *JWT, "--limit", limit)
    assert said in fault


def test_takes_imports() -> None:
    """Modules come in the order in which they are told; a strange name is refused."""
    flags = ["--import", "numpy", "--import", "xml.dom"]
    settings = read(Settings, [*BASE, *JWT, *flags], {}, "picod")
    assert settings.imports == ("numpy", "xml.dom")
    (fault,) = faults(*BASE, *JWT, "--import", "os; x")
    assert "no name of a module" in fault


def test_mtls_needs_an_identity_and_a_router() -> None:
    """All that is missing is told at once."""
    assert [fault.split()[0] for fault in faults(*BASE)] == [
        "--router-id",
        "--mtls-cert-file",
        "--mtls-key-file",
        "--mtls-ca-file",
    ]


def test_jwt_needs_keys() -> None:
    """Without keys no token could be judged."""
    assert faults(*BASE, "--picod-auth-mode", "jwt") == [
        "--jwt-public-keys-file is not set"
    ]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "0.0.0.0:5000"])
def test_jwt_does_not_go_over_a_network(address: str) -> None:
    """Without TLS the data door is a Unix socket or nothing."""
    (fault,) = faults(*BASE, *JWT, "--listen", address)
    assert "jwt cannot listen" in fault


def test_the_control_door_is_a_unix_socket() -> None:
    """Its peer is known by the socket alone."""
    (fault,) = faults(*BASE, *JWT, "--control-listen", "127.0.0.1:0")
    assert "no Unix socket" in fault


def test_the_doors_are_two() -> None:
    """One address for both doors would mix who may do what."""
    (fault,) = faults(*BASE, *JWT, "--control-listen", "unix:/r/data")
    assert "same address" in fault


@pytest.mark.parametrize("name", ["", "sbx-1", "ses-" + "a" * 26, f"{SANDBOX}/.."])
def test_a_sandbox_id_has_one_form(name: str) -> None:
    """It becomes a path, an identity and an audience: nothing else may be in it."""
    assert faults(*BASE, *JWT, "--sandbox-id", name)


MTLS = ["--router-id", "spiffe://cluster.local/ns/a/sa/agentcube-router"]


def test_what_is_handed_over_is_all() -> None:
    """With a descriptor nothing else of an identity is asked for."""
    settings = read(Settings, [*BASE, *MTLS, "--identity-fd", "3"], {}, "picod")
    assert (settings.identity_fd, settings.tls) == (3, None)


@pytest.mark.parametrize(
    "flag",
    [
        "--mtls-cert-file=/c",
        "--mtls-key-file=/k",
        "--mtls-ca-file=/b",
        "--spiffe-endpoint-socket=unix:///run/agent.sock",
        "--spiffe-id=spiffe://a.test/b",
        "--trust-bundle=cluster.local=/b",
        "--trust-bundle-dir=/b",
        "--mtls-credential-bundle-file=/c",
    ],
)
def test_there_is_one_source_of_an_identity(flag: str) -> None:
    """Two of them would make it a matter of luck who PicoD is."""
    (fault,) = faults(*BASE, *MTLS, "--identity-fd", "3", flag)
    assert fault == f"{flag.partition('=')[0]} and --identity-fd are both set"
