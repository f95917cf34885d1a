"""Who a service is, and whom it trusts: the flags that all services share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  # read at run time
from typing import TYPE_CHECKING

from serving._flags import PATH, SPIFFE_ID, TRUST_BUNDLE, WORKLOAD_API
from serving._settings import flag
from tlsloader import Paths
from tlsloader.workload import load_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from serving._faults import Fault
    from tlsloader import FileSource, SpiffeID
    from tlsloader.workload import WorkloadAPISource

__all__ = ["IdentityFlags"]

_FILES = ("--mtls-cert-file", "--mtls-key-file", "--mtls-ca-file")
_ENDPOINT = "--spiffe-endpoint-socket"


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
    mtls_ca_file: Path | None = flag(
        "--mtls-ca-file",
        PATH,
        default=None,
        help="The bundle of our own trust domain, PEM",
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

    @property
    def tls(self) -> Paths | None:
        """The files of our identity, unless an agent gives it."""
        key, chain, bundle = self.mtls_key_file, self.mtls_cert_file, self.mtls_ca_file
        if key is None or chain is None or bundle is None:
            return None
        return Paths(key, chain, bundle)

    async def identity(self) -> FileSource | WorkloadAPISource:
        """Return the source of our identity, with its first generation.

        Raises:
            MaterialError: it gives no usable identity in time.
        """
        return await load_source(
            self.tls, self.spiffe_endpoint_socket, self.trust_bundles, self.spiffe_id
        )

    def identity_faults(self) -> Iterator[Fault]:
        """Yield what is wrong about where our identity is to come from."""
        endpoint = self.spiffe_endpoint_socket
        if endpoint is None and self.spiffe_id is not None:
            yield (
                f"--spiffe-id goes with {_ENDPOINT} only",
                "files hold one identity: leave it out",
            )
        files = (self.mtls_cert_file, self.mtls_key_file, self.mtls_ca_file)
        for name, file in zip(_FILES, files, strict=True):
            if endpoint is not None and file is not None:
                yield (
                    f"{name} and {_ENDPOINT} are both set",
                    "files or a SPIFFE agent, not both: leave one out",
                )
            if endpoint is None and file is None:
                yield (
                    f"{name} is not set",
                    f"an identity needs all three files, or {_ENDPOINT} unix:///path",
                )
