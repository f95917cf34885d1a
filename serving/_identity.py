"""Where a service was told to take its identity from: files or an agent, not both."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from serving._faults import Fault
    from tlsloader import SpiffeID

__all__ = ["IDENTITY_FILES", "identity_faults"]

IDENTITY_FILES = ("--mtls-cert-file", "--mtls-key-file", "--mtls-ca-file")
"""The flags that name the files of an identity."""

_ENDPOINT = "--spiffe-endpoint-socket"


def identity_faults(
    files: Mapping[str, Path | None], endpoint: str | None, spiffe_id: SpiffeID | None
) -> Iterator[Fault]:
    """Yield what is wrong about *files*, by flag, beside *endpoint*."""
    if endpoint is None and spiffe_id is not None:
        yield (
            f"--spiffe-id goes with {_ENDPOINT} only",
            "files hold one identity: leave it out",
        )
    for name, file in files.items():
        if endpoint is not None and file is not None:
            yield (
                f"{name} and {_ENDPOINT} are both set",
                "an identity comes from files or from a SPIFFE agent: leave one out",
            )
        if endpoint is None and file is None:
            yield (
                f"{name} is not set",
                f"an identity needs all three files, or {_ENDPOINT} unix:///path",
            )
