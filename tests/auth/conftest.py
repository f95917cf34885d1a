"""Keys in files, a clock moved by hand, and tokens of any shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from auth import KeySet, Principal, PublicKeys, Signer, SigningKeys, Verifier
from tests.fakes import FakeClock
from tlsloader.strict import encode_base64url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from auth._jwk import PrivateKey

SESSION = "ses-" + "a" * 26
SANDBOX = "sbx-" + "b" * 26
ALICE = Principal("spiffe://example.org", "spiffe://example.org/user/alice", "alice")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@dataclass
class Files:
    """The two files of signing keys, in a folder of their own."""

    folder: Path
    clock: FakeClock

    @property
    def private(self) -> Path:
        return self.folder / "jwt-signing.json"

    @property
    def public(self) -> Path:
        return self.folder / "jwt-public.json"

    async def load(self, **options: Any) -> SigningKeys:
        """Load the signing keys, made if missing."""
        options.setdefault("create", True)
        return await SigningKeys.load(
            self.private, self.public, clock=self.clock, **options
        )

    def published(self) -> list[str]:
        """Return the names of the keys that verifiers see."""
        return [key["kid"] for key in json.loads(self.public.read_text())["keys"]]


@pytest.fixture
def files(tmp_path: Path, clock: FakeClock) -> Files:
    return Files(tmp_path, clock)


@dataclass
class Bench:
    """One key, a signer and a verifier that agree, and a forger of tokens."""

    key: PrivateKey
    signer: Signer
    verifier: Verifier
    public: PublicKeys
    clock: FakeClock

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims but for *changes*; ``None`` leaves one out."""
        now = int(self.clock.now().timestamp())
        good = {
            "iss": "agentcube-router",
            "aud": SANDBOX,
            "sub": ALICE.subject,
            "sub_iss": ALICE.issuer,
            "name": ALICE.display,
            "sid": SESSION,
            "iat": now,
            "exp": now + 300,
        }
        return _changed(good, changes)

    def header(self, **changes: Any) -> dict[str, Any]:
        """Return a good header but for *changes*; ``None`` leaves one out."""
        good = {
            "alg": self.key.algorithm,
            "kid": self.key.kid,
            "typ": "cubemesh-session+jwt",
        }
        return _changed(good, changes)


def _changed(good: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {**good, **changes}
    return {name: value for name, value in both.items() if value is not None}


def encoded(value: object) -> str:
    """Return *value* as a part of a token; text stands for itself."""
    raw = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return encode_base64url(raw.encode())


@pytest.fixture(params=["ES256", "EdDSA"])
async def bench(request: pytest.FixtureRequest, files: Files) -> Bench:
    keys = await files.load(algorithm=request.param)
    public = PublicKeys(files.public, KeySet.load(files.public), clock=files.clock)
    return Bench(
        keys.signing,
        Signer(keys, clock=files.clock),
        Verifier(public, SANDBOX, clock=files.clock),
        public,
        files.clock,
    )
