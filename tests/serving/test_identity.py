"""The flags that say who a service is: each layout of files, and the agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving import IdentityFlags, SettingsError, read
from tests.forge import Forge
from tlsloader import BundlePaths, FileSource, Paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving import Fault

ROUTER = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
CREDENTIAL = ("--mtls-credential-bundle-file", "/x/credential.pem")
CHAIN = ("--mtls-cert-file", "/x/svid.pem")
KEY = ("--mtls-key-file", "/x/key.pem")
ROOTS = ("--mtls-ca-file", "/x/bundle.pem")
FOLDER = ("--trust-bundle-dir", "/x/bundles")
AGENT = ("--spiffe-endpoint-socket", "unix:///x/agent.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(IdentityFlags):
    """A service that needs an identity and nothing else."""

    def faults(self) -> Iterator[Fault]:
        return self.identity_faults()


def told(*argv: str, **environ: str) -> Settings:
    return read(Settings, argv, environ, "test")


def faults(*argv: str, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        told(*argv, **environ)
    assert all(hint for _, hint in caught.value.faults)
    return [text for text, _ in caught.value.faults]


@pytest.mark.parametrize(
    ("argv", "paths"),
    [
        ((*CHAIN, *KEY, *ROOTS), ("/x/key.pem", "/x/svid.pem", "/x/bundle.pem")),
        ((*CHAIN, *KEY, *FOLDER), ("/x/key.pem", "/x/svid.pem", "/x/bundles")),
        ((*CREDENTIAL, *ROOTS), ("/x/credential.pem",) * 2 + ("/x/bundle.pem",)),
        ((*CREDENTIAL, *FOLDER), ("/x/credential.pem",) * 2 + ("/x/bundles",)),
    ],
)
def test_files_may_lie_in_several_ways(
    argv: tuple[str, ...], paths: tuple[str, str, str]
) -> None:
    """Key and chain apart or in one file; our own roots in a file or in the folder."""
    assert told(*argv).tls == Paths(*map(Path, paths))


def test_bundles_of_others_go_with_files_and_with_an_agent() -> None:
    """One by one, in a folder, or both."""
    more = ("--trust-bundle", "other.test=/x/other.pem", *FOLDER)
    for own in ((*CREDENTIAL, *ROOTS), AGENT):
        assert told(*own, *more).bundle_paths == BundlePaths(
            {"other.test": Path("/x/other.pem")}, Path("/x/bundles")
        )


def test_every_flag_has_its_twin() -> None:
    """What a container is told by its environment is the same."""
    settings = told(
        CUBEMESH_TEST_MTLS_CREDENTIAL_BUNDLE_FILE="/x/credential.pem",
        CUBEMESH_TEST_TRUST_BUNDLE_DIR="/x/bundles",
    )
    assert settings == told(*CREDENTIAL, *FOLDER)


@pytest.mark.parametrize("own", [CREDENTIAL, (*CHAIN, *KEY), ROOTS])
def test_files_and_an_agent_are_two_sources(own: tuple[str, ...]) -> None:
    """Each file that is given beside the agent is named."""
    assert faults(*own, *AGENT) == [
        f"{name} and --spiffe-endpoint-socket are both set" for name in own[::2]
    ]


def test_a_credential_and_its_parts_are_two_sources() -> None:
    """Nobody has to guess which key is in use."""
    assert faults(*CREDENTIAL, *CHAIN, *KEY, *ROOTS) == [
        f"{name} and --mtls-credential-bundle-file are both set"
        for name in ("--mtls-cert-file", "--mtls-key-file")
    ]


def test_all_that_is_missing_is_told_at_once() -> None:
    """An operator mends a command line in one round."""
    assert faults() == [
        f"{name} is not set"
        for name in ("--mtls-cert-file", "--mtls-key-file", "--mtls-ca-file")
    ]
    assert faults(*CREDENTIAL) == ["--mtls-ca-file is not set"]
    assert faults(*CHAIN, *ROOTS) == ["--mtls-key-file is not set"]
    assert faults(*FOLDER, "--spiffe-id", ROUTER) == [
        "--spiffe-id goes with --spiffe-endpoint-socket only",
        "--mtls-cert-file is not set",
        "--mtls-key-file is not set",
    ]


@pytest.mark.parametrize("own", [(*CREDENTIAL, *ROOTS), (*CHAIN, *KEY, *FOLDER)])
def test_files_win_over_the_common_variable(own: tuple[str, ...]) -> None:
    """It may be set for other programs of the same host."""
    settings = told(*own, SPIFFE_ENDPOINT_SOCKET="unix:///x/agent.sock")
    assert settings.spiffe_endpoint_socket is None
    alone = told(SPIFFE_ENDPOINT_SOCKET="unix:///x/agent.sock")
    assert alone.spiffe_endpoint_socket == "unix:///x/agent.sock"


async def test_one_file_and_one_folder_make_an_identity(
    forge: Forge, tmp_path: Path
) -> None:
    """The layout of the SPIFFE filesystem draft, by two flags."""
    svid, other, folder = forge.svid(ROUTER), Forge("other.test"), tmp_path / "bundles"
    folder.mkdir()
    for each in (forge, other):
        (folder / f"{each.trust_domain}.pem").write_bytes(each.bundle)
    file = tmp_path / "credential.pem"
    file.write_bytes(svid.key + svid.chain)
    settings = told(
        *("--mtls-credential-bundle-file", str(file)),
        *("--trust-bundle-dir", str(folder)),
    )
    source = await settings.identity()
    assert isinstance(source, FileSource)
    own = source.current()
    assert own.leaf_sha256 == svid.leaf_sha256
    assert own.bundles == {"cluster.local": forge.trust, "other.test": other.trust}


@pytest.fixture
def forge() -> Forge:
    return Forge("cluster.local")
