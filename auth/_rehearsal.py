"""Verifying for the first time, once for all who are forked afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from auth._jwk import PrivateKey
from auth._principal import Principal
from auth._public import KeySet, PublicKeys
from auth._tokens import Signer, Verifier

if TYPE_CHECKING:
    from auth._jwk import Algorithm

__all__ = ["rehearse"]

_ALGORITHMS: tuple[Algorithm, ...] = ("ES256", "EdDSA")
_SANDBOX, _SESSION = "sbx-" + 26 * "a", "ses-" + 26 * "a"
_NOBODY = Principal("spiffe://rehearsal", "spiffe://rehearsal/nobody")


@dataclass(frozen=True, slots=True)
class _Thrown:
    """Keys that nobody has after this."""

    signing: PrivateKey
    kids: frozenset[str] = frozenset()


def rehearse() -> None:
    """Verify a token of each kind, by a key that is made for it and thrown away.

    The libraries beneath set themselves up when they are first used, which takes
    longer than all that follows.
    """
    for algorithm in _ALGORITHMS:
        key = PrivateKey.generate(algorithm, 0)
        token = Signer(_Thrown(key)).token(_SESSION, _SANDBOX, _NOBODY)
        keys = PublicKeys(Path(), KeySet.parse([key.public.dump()]))
        Verifier(keys, _SANDBOX).verify(token, session_id=_SESSION)
