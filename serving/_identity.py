"""Who a service is, and whom it trusts: the flags that all services share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path  # noqa: TC003  # read at run time
from typing import TYPE_CHECKING

import click

from serving._flags import PATH, SPIFFE_ID, TRUST_BUNDLE, WORKLOAD_API
from serving._settings import flag, name_of
from tlsloader import BundlePaths, Paths
from tlsloader.workload import load_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from serving._faults import Fault
    from tlsloader import FileSource, SpiffeID, TLSVersion
    from tlsloader.workload import WorkloadAPISource

__all__ = ["IdentityFlags"]

_CREDENTIAL = "--mtls-credential-bundle-file"
_PAIR = ("--mtls-cert-file", "--mtls-key-file")
_ROOTS = "--mtls-ca-file"
_FILES = (_CREDENTIAL, *_PAIR, _ROOTS)
_FOLDER = "--trust-bundle-dir"
_ENDPOINT = "--spiffe-endpoint-socket"
_SOURCES = (*_FILES, _ENDPOINT, "--spiffe-id", "--trust-bundle", _FOLDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityFlags:
    """The part of a service's settings that says where its identity comes from.

    Meant to be inherited; ``faults`` of the whole yields `identity_faults` wherever
    an identity is needed.
    """

    mtls_cert_file: Path | None = flag(
        "--mtls-cert-file", PATH, default=None, help="Our X509-SVID, leaf first, PEM"
    )
    mtls_key_file: Path | None = flag(
        "--mtls-key-file", PATH, default=None, help="Its private key, PEM"
    )
    mtls_credential_bundle_file: Path | None = flag(
        _CREDENTIAL,
        PATH,
        default=None,
        help="Instead of both: one file with the key, then the X509-SVID, PEM",
    )
    mtls_ca_file: Path | None = flag(
        _ROOTS,
        PATH,
        default=None,
        help="The bundle of our own trust domain, PEM; "
        "not needed if --trust-bundle-dir holds it",
    )
    spiffe_endpoint_socket: str | None = flag(
        _ENDPOINT,
        WORKLOAD_API,
        default=None,
        also=("SPIFFE_ENDPOINT_SOCKET", _FILES),
        help="Instead of files: the SPIFFE agent that gives us our identity",
    )
    spiffe_id: SpiffeID | None = flag(
        "--spiffe-id",
        SPIFFE_ID,
        default=None,
        help="Whom to be, if the agent knows us by several identities",
    )
    trust_bundles: Mapping[str, Path] = flag(
        "--trust-bundle",
        TRUST_BUNDLE,
        mapping=True,
        help="The bundle of another trust domain; repeatable",
    )
    trust_bundle_dir: Path | None = flag(
        _FOLDER,
        PATH,
        default=None,
        help="A folder with the bundle of each trust domain as <trust domain>.pem; "
        "files may come and go",
    )
    tls_min_version: TLSVersion = flag(
        "--tls-min-version",
        click.Choice(["1.2", "1.3"]),
        default="1.3",
        help="The lowest version of TLS, for who comes in and whom we dial",
    )

    @property
    def tls(self) -> Paths | None:
        """The files of our identity, unless an agent gives it."""
        both = self.mtls_credential_bundle_file
        key, chain = both or self.mtls_key_file, both or self.mtls_cert_file
        bundle = self.mtls_ca_file or self.trust_bundle_dir
        if key is None or chain is None or bundle is None:
            return None
        return Paths(key, chain, bundle)

    @property
    def bundle_paths(self) -> BundlePaths:
        """Where the bundles of other trust domains are."""
        return BundlePaths(self.trust_bundles, self.trust_bundle_dir)

    @property
    def identity_told(self) -> Sequence[str]:
        """Which of the flags are set that say where an identity comes from."""
        told = (each for each in fields(IdentityFlags) if getattr(self, each.name))
        return [name for each in told if (name := name_of(each)) in _SOURCES]

    async def identity(self, wait: float = 30.0) -> FileSource | WorkloadAPISource:
        """Return the source of our identity, with its first generation.

        Raises:
            MaterialError: it gives no usable identity within *wait* seconds.
        """
        return await load_source(
            self.tls,
            self.spiffe_endpoint_socket,
            self.bundle_paths,
            self.spiffe_id,
            wait=wait,
        )

    def identity_faults(self) -> Iterator[Fault]:
        """Yield what is wrong about where our identity is to come from."""
        given = self.identity_told
        if self.spiffe_endpoint_socket is None:
            yield from self._file_faults(given)
        else:
            for name in _FILES:
                if name in given:
                    yield (
                        f"{name} and {_ENDPOINT} are both set",
                        "files or a SPIFFE agent, not both: leave one out",
                    )

    def _file_faults(self, given: Sequence[str]) -> Iterator[Fault]:
        if self.spiffe_id is not None:
            yield (
                f"--spiffe-id goes with {_ENDPOINT} only",
                "files hold one identity: leave it out",
            )
        for name in _PAIR:
            if _CREDENTIAL in given and name in given:
                yield (
                    f"{name} and {_CREDENTIAL} are both set",
                    "one file with everything, or one for each: leave one out",
                )
            if _CREDENTIAL not in given and name not in given:
                yield f"{name} is not set", _needs(f"it and its twin, or {_CREDENTIAL}")
        if _ROOTS not in given and self.trust_bundle_dir is None:
            yield f"{_ROOTS} is not set", _needs(f"it, or {_FOLDER}")


def _needs(what: str) -> str:
    return f"an identity needs {what}; or {_ENDPOINT} unix:///path instead of files"
