"""SPIFFE bundle documents: roots and JWT keys in one JWK Set, of one trust domain."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import event, given
from hypothesis import strategies as st

from tests.forge import Forge, Signer
from tests.minter import Minter
from tests.tlsloader.der import mangled, meaning
from tlsloader import (
    BundleDocument,
    BundlePaths,
    JWTBundle,
    Material,
    MaterialError,
    TrustBundle,
)

if TYPE_CHECKING:
    from pathlib import Path

FORGE = Forge("other.test")
MINTER = Minter("other.test", FORGE.now)
SECOND = FORGE.signer(subject="second")


def root(signer: Signer = FORGE.root, **changes: Any) -> dict[str, Any]:
    """Return *signer* as a document tells it."""
    der = signer.certificate.public_bytes(Encoding.DER)
    x5c = [base64.b64encode(der).decode()]
    return {"kty": "EC", "use": "x509-svid", "crv": "P-256", "x5c": x5c, **changes}


def token_key(**changes: Any) -> dict[str, Any]:
    return MINTER.jwk(**{"use": "jwt-svid", **changes})


def document(*keys: Any, **members: Any) -> bytes:
    return json.dumps({"keys": keys, **members}).encode()


def parsed(*keys: Any, **members: Any) -> BundleDocument:
    return BundleDocument.parse("other.test", document(*keys, **members))


def fault(data: bytes) -> str:
    with pytest.raises(MaterialError, match="the bundle") as caught:
        BundleDocument.parse("other.test", data)
    return caught.value.reason


def test_tells_roots_and_token_keys_apart() -> None:
    """Each key counts for the one use that it names."""
    found = parsed(
        root(), token_key(), root(SECOND), spiffe_sequence=7, spiffe_refresh_hint=60
    )
    roots = FORGE.root.certificate, SECOND.certificate
    assert found.x509 == TrustBundle("other.test", roots)
    assert found.jwt == JWTBundle("other.test", {MINTER.kid: token_key()})
    assert (found.sequence, found.refresh_hint) == (7, 60)


def test_says_little_and_means_it() -> None:
    """Nothing but keys is asked for; five minutes is when to look again."""
    found = parsed(root(), extra={"a": 1})
    assert (found.sequence, found.refresh_hint) == (None, 300)
    assert dict(found.jwt.keys) == {}


@pytest.mark.parametrize(
    "key",
    [
        root(SECOND, use="wit-svid"),
        root(SECOND, use="X509-SVID"),
        root(SECOND, use=None),
        root(SECOND, use=["x509-svid"]),
        root(SECOND, kty="AKP"),
        root(SECOND, kty=["EC"]),
        root(SECOND, kty=None),
        root(SECOND, x5c=[]),
        root(SECOND, x5c=None),
        token_key(use="enc"),
        token_key(use=None),
        token_key(kty="AKP"),
    ],
    ids=lambda key: f"{key.get('kty')} {key.get('use')} {len(key.get('x5c') or ())}",
)
def test_passes_over_what_it_does_not_know(key: dict[str, Any]) -> None:
    """Later kinds and uses harm nobody who does not know them."""
    assert parsed(root(), key) == parsed(root())


def test_only_the_first_certificate_of_a_key_counts() -> None:
    """What stands behind it would be a root that nobody published."""
    x5c = [*root()["x5c"], *root(SECOND)["x5c"], "junk"]
    assert parsed(root(x5c=x5c)).x509 == FORGE.trust


def test_an_empty_document_trusts_nobody() -> None:
    """So a trust domain takes everything back."""
    found = parsed()
    assert found.x509 == TrustBundle("other.test", ())
    assert found.jwt == JWTBundle("other.test", {})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad_document"),
        (b"[]", "bad_document"),
        (b"{}", "bad_document"),
        (b'{"keys": null}', "bad_document"),
        (b'{"keys": {}}', "bad_document"),
        (b'{"keys": [1]}', "bad_document"),
        (b'{"keys": [], "keys": []}', "bad_document"),
        (document()[:-1], "bad_document"),
        (document(*[token_key(kid=str(n)) for n in range(257)]), "bad_document"),
        (document(spiffe_sequence="1"), "bad_document"),
        (document(spiffe_sequence=-1), "bad_document"),
        (document(spiffe_sequence=True), "bad_document"),
        (document(spiffe_refresh_hint=[]), "bad_document"),
        (document(token_key(kid=None)), "bad_document"),
        (document(token_key(kid="")), "bad_document"),
        (document(token_key(kid=1)), "bad_document"),
        (document(token_key(), token_key()), "bad_document"),
        (document(root(x5c=["junk"])), "bad_certificate"),
        (document(root(x5c=[1])), "bad_certificate"),
        (document(root(x5c=[root()["x5c"][0] + "\n"])), "bad_certificate"),
        (document(root(x5c=[base64.b64encode(b"junk").decode()])), "bad_certificate"),
        (document(root(FORGE.signer(ca=False))), "bundle_signer_not_ca"),
        (
            document(root(FORGE.signer(uris=("spiffe://evil.test",)))),
            "bundle_signer_other_domain",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_refuses_what_is_no_bundle(data: bytes, reason: str) -> None:
    """A document is taken whole or not at all."""
    assert fault(data) == reason


def test_files_may_hold_documents(tmp_path: Path) -> None:
    """Wherever a bundle's file is asked for, PEM or a document will do."""
    forge = Forge("cluster.local", FORGE.now)
    paths = forge.write(tmp_path, "spiffe://cluster.local/a")
    paths.bundle.write_bytes(document(root(forge.root)))
    other = tmp_path / "other.json"
    other.write_bytes(b"\n " + document(root(), token_key()))
    bundles = BundlePaths({"other.test": other})
    own = Material.load(paths, bundles, now=forge.now)
    assert own.bundles == {"cluster.local": forge.trust, "other.test": FORGE.trust}


class TestTokenKeysAlone:
    """What the Workload API gives is a JWK Set of one use."""

    def test_need_not_say_their_use(self) -> None:
        """SPIRE leaves it out; other uses are passed over all the same."""
        keys = [MINTER.jwk(), MINTER.jwk(kid="b", use="jwt-svid")]
        keys += [MINTER.jwk(kid="c", use="x509-svid"), MINTER.jwk(kid="d", kty="oct")]
        bundle = JWTBundle.parse("other.test", document(*keys))
        assert set(bundle.keys) == {MINTER.kid, "b"}

    def test_a_bundle_is_a_set(self) -> None:
        """Order makes no other bundle, a key more does."""
        one, two = MINTER.jwk(), MINTER.jwk(kid="b")
        there = JWTBundle.parse("other.test", document(one, two))
        back = JWTBundle.parse("other.test", document(two, one))
        assert there == back
        assert there != JWTBundle.parse("other.test", document(one))
        assert there != JWTBundle("cluster.local", there.keys)
        with pytest.raises(TypeError):
            there.keys["c"] = one  # type: ignore[index]

    @pytest.mark.parametrize("data", [b"", b"{}", document(MINTER.jwk(kid=None))])
    def test_are_refused_as_documents_are(self, data: bytes) -> None:
        """Whole or not at all."""
        with pytest.raises(MaterialError, match="the keys") as caught:
            JWTBundle.parse("other.test", data)
        assert caught.value.reason == "bad_document"


WHOLE = document(root(), token_key(), root(SECOND), spiffe_sequence=1)


@pytest.mark.slow
@given(mangled(WHOLE, accidents=1))
def test_a_mangled_document_is_refused_or_means_the_same(data: bytes) -> None:
    """No accident adds a root, or changes one."""
    try:
        found = BundleDocument.parse("other.test", data)
    except MaterialError as error:
        event(error.reason)
    else:
        event("taken")
        known = [meaning(each.certificate) for each in (FORGE.root, SECOND)]
        assert all(meaning(each) in known for each in found.x509.certificates)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.slow
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["kty", "use", "kid", "x5c", "alg"]), JSONS)
        | JSONS
    ),
    JSONS,
)
def test_any_json_is_an_error_or_a_bundle(keys: list[Any], number: Any) -> None:
    """No document fails in another way than by our error."""
    data = document(*keys, root(), spiffe_sequence=number)
    for read in (BundleDocument.parse, JWTBundle.parse, TrustBundle.parse):
        with suppress(MaterialError):
            read("other.test", data)
