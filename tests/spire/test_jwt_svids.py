"""JWT-SVIDs of the real SPIRE: fetched by us, judged by the keys its agent streams."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from auth import JWTSVIDVerifier, TokenRefusedError
from clock import SYSTEM
from tests.fakes import FakeClock, running, until
from tests.minter import Minter
from tlsloader import BundleDocument, MaterialError, SpiffeID, TrustBundle
from tlsloader.jwt_bundles import JWTBundleSource
from tlsloader.jwt_svids import JWTSVIDSource
from tlsloader.strict import decode_base64url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.spire.spire import Spire

pytestmark = [pytest.mark.spire, pytest.mark.slow]

US = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
BASE = "spiffe://cluster.local/ns/agentcube-system/sa"
GROUP = 0


@dataclass
class Judged:
    """A workload with its tokens, and one that judges them."""

    bundles: JWTBundleSource
    own: JWTSVIDSource
    verifier: JWTSVIDVerifier

    def refusal(self, token: str) -> str:
        with pytest.raises(TokenRefusedError) as caught:
            self.verifier.verify(token)
        return caught.value.reason

    @property
    def keys(self) -> set[str]:
        return set(self.bundles.current()["cluster.local"].keys)

    async def sees(self, keys: Callable[[], object]) -> None:
        async with asyncio.timeout(15):
            await until(keys)


@asynccontextmanager
async def workload(spire: Spire, identity: str, *more: str) -> AsyncIterator[Judged]:
    """Be *identity* by tokens, and judge those that are for us."""
    own = JWTSVIDSource(spire.endpoint, spiffe_id=SpiffeID.parse(identity))
    async with spire.entry(identity, "-jwtSVIDTTL", "60", *more, group=GROUP):
        async with asyncio.timeout(15):
            # The agent may still speak of an entry that another test had
            while not await knows(own):
                pass
        bundles = await JWTBundleSource.load(spire.endpoint)
        async with running(bundles.follow()):
            yield Judged(bundles, own, JWTSVIDVerifier(bundles, US))


async def knows(own: JWTSVIDSource) -> bool:
    """Say whether the agent knows of our entry by now."""
    with suppress(MaterialError):
        await own.fetch("the agent")
        return True
    return False


async def authority(spire: Spire, action: str, number: str = "") -> str:
    """Do *action* with the key that signs tokens; return the number of that key."""
    which = ("-authorityID", number) if number else ()
    answer = await spire.ask("localauthority", "jwt", action, *which)
    found: str = next(iter(answer.values()))["authority_id"]
    return found


async def test_a_token_proves_who_we_are(spire: Spire) -> None:
    """To whom it is for, until it expires, and as it was signed; nothing else."""
    identity = f"{BASE}/token"
    async with workload(spire, identity) as here:
        svid = await here.own.fetch(US)
        assert str(here.verifier.verify(svid.token).identity) == identity
        assert await here.own.fetch(US) is svid
        another = await here.own.fetch(f"{US}-2")
        assert here.refusal(another.token) == "wrong_audience"
        head, payload, signature = svid.token.split(".")
        _, other, _ = another.token.split(".")
        assert here.refusal(f"{head}.{other}.{signature}") == "bad_signature"
        flipped = signature[:-4] + signature[-4:].swapcase()
        assert here.refusal(f"{head}.{payload}.{flipped}") in {
            *("bad_signature", "malformed")
        }
        later = FakeClock(svid.expires)
        later.jump(10)
        verifier = JWTSVIDVerifier(here.bundles, US, clock=later)
        with pytest.raises(TokenRefusedError, match="expired"):
            verifier.verify(svid.token)


async def test_the_key_rolls_over(spire: Spire) -> None:
    """Prepared, activated, tainted, revoked: new tokens hold, revoked ones do not."""
    async with workload(spire, f"{BASE}/rolling-token") as here:
        before = await here.own.fetch(US)
        [old] = here.keys
        new = await authority(spire, "prepare")
        await here.sees(lambda: here.keys == {old, new})
        await authority(spire, "activate", new)
        assert here.verifier.verify(before.token)
        await authority(spire, "taint", old)
        after = await here.own.fetch(US, "fresh")
        assert here.verifier.verify(after.token)
        assert _key_of(after.token) == new
        await authority(spire, "revoke", old)
        await here.sees(lambda: here.keys == {new})
        assert here.refusal(before.token) == "unknown_key"
        assert here.verifier.verify(after.token)
        assert not here.bundles.refusals


def _key_of(token: str) -> str:
    header: dict[str, Any] = json.loads(decode_base64url(token.partition(".")[0]))
    kid: str = header["kid"]
    return kid


async def test_other_trust_domains_are_judged_by_their_own_keys(
    spire: Spire, tmp_path: Path
) -> None:
    """A federated domain's token holds while its bundle is there, and no longer."""
    other = Minter("other.test", SYSTEM.now())
    token = other.token("spiffe://other.test/caller", US)
    file, domain = tmp_path / "other.json", ("-id", "spiffe://other.test")
    file.write_bytes(json.dumps({"keys": [other.jwk(use="jwt-svid")]}).encode())
    command = ("bundle", "set", *domain, "-format", "spiffe", "-path", str(file))
    await spire.ask(*command)
    federated = ("-federatesWith", "spiffe://other.test")
    async with workload(spire, f"{BASE}/federated-token", *federated) as here:
        await here.sees(lambda: "other.test" in here.bundles.current())
        assert here.verifier.verify(token).identity.trust_domain == "other.test"
        forged = Minter("cluster.local", SYSTEM.now(), kid=next(iter(here.keys)))
        assert here.refusal(forged.token(f"{BASE}/x", US)) == "bad_signature"
        await spire.ask("bundle", "delete", *domain, "-mode", "dissociate")
        await here.sees(lambda: "other.test" not in here.bundles.current())
        assert here.refusal(token) == "no_bundle"


async def test_reads_the_bundle_document_of_a_server(spire: Spire) -> None:
    """What a server publishes holds the roots and the keys that its agent streams."""
    async with workload(spire, f"{BASE}/document") as here:
        text = await asyncio.to_thread(spire.run, "bundle", "show", "-format", "spiffe")
        pem = await asyncio.to_thread(spire.run, "bundle", "show")
        found = BundleDocument.parse("cluster.local", text.encode())
        assert found.x509 == TrustBundle.parse("cluster.local", pem.encode())
        assert set(found.jwt.keys) == here.keys
        svid = await here.own.fetch(US)
        assert JWTSVIDVerifier(Still(found), US).verify(svid.token)
        assert found.sequence


class Still:
    """The keys of one document, for ever."""

    def __init__(self, document: BundleDocument) -> None:
        self._held = {document.jwt.trust_domain: document.jwt}

    def current(self) -> Any:
        return self._held
