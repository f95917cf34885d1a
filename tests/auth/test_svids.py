from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from auth import JWTSVIDVerifier, TokenRefusedError, VerifiedSVID
from auth._svid_keys import SvidKey
from tests.fakes import FakeClock
from tests.minter import Minter
from tlsloader import JWTBundle, SpiffeID
from tlsloader.strict import decode_base64url, encode_base64url

if TYPE_CHECKING:
    from collections.abc import Mapping

CALLER = "spiffe://cluster.local/ns/agentcube-system/sa/caller"
US = "spiffe://cluster.local/ns/agentcube-system/sa/agentcube-router"
ALGORITHMS = [
    f"{kind}{bits}" for kind in ("ES", "RS", "PS") for bits in (256, 384, 512)
]
CLOCK = FakeClock()
MINTER = Minter("cluster.local", CLOCK.now())
GOOD = MINTER.token(CALLER, US)


class Bundles:
    """What an agent gave last."""

    def __init__(self, *bundles: JWTBundle) -> None:
        self.held: Mapping[str, JWTBundle] = {b.trust_domain: b for b in bundles}

    def current(self) -> Mapping[str, JWTBundle]:
        return self.held


def verified(token: str, *bundles: JWTBundle, **options: Any) -> VerifiedSVID:
    held = Bundles(*(bundles or [MINTER.bundle]))
    options.setdefault("clock", CLOCK)
    return JWTSVIDVerifier(held, US, **options).verify(token)


def reason(token: str, *bundles: JWTBundle, **options: Any) -> str:
    with pytest.raises(TokenRefusedError) as caught:
        verified(token, *bundles, **options)
    parts = token.split(".")
    assert not any(part in str(caught.value) for part in parts if len(part) > 20)
    return caught.value.reason


def signed(payload: dict[str, Any] | bytes = b"", **header: Any) -> str:
    """Return a token truly signed, of a *payload* and changes of its *header*."""
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    good = json.dumps(MINTER.claims(CALLER, US)).encode()
    return MINTER.signed(MINTER.header(**header), raw or good)


def test_tells_what_a_good_token_says() -> None:
    """A token of a workload for us says who it is, and until when."""
    svid = verified(MINTER.token(CALLER, US, nbf=MINTER.now, role="admin"))
    assert svid == VerifiedSVID(
        SpiffeID.parse(CALLER), (US,), MINTER.now + 300, MINTER.now, MINTER.now, {}
    )
    assert svid.claims["role"] == "admin"
    with pytest.raises(TypeError):
        svid.claims["role"] = "none"  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_takes_every_algorithm_of_the_standard(algorithm: str) -> None:
    """RS, PS and ES, each with three hashes; and each key only its own."""
    minter = Minter("cluster.local", CLOCK.now(), algorithm=algorithm)
    token = minter.token(CALLER, US)
    assert str(verified(token, minter.bundle).identity) == CALLER
    pinned = JWTBundle.parse("cluster.local", minter.jwks(alg=algorithm))
    assert str(verified(token, pinned).identity) == CALLER
    for other in set(ALGORITHMS) - {algorithm}:
        wrong = JWTBundle.parse("cluster.local", minter.jwks(alg=other))
        assert reason(token, wrong) in {"wrong_algorithm", "unusable_key"}


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": None},
        {"typ": "JOSE"},
    ],
)
def test_the_type_may_be_left_out(changes: dict[str, Any]) -> None:
    """JWT, JOSE, or nothing said."""
    assert str(verified(signed(**changes)).identity) == CALLER


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"alg": "none"}, "wrong_algorithm"),
        ({"alg": "HS256"}, "wrong_algorithm"),
        ({"alg": "EdDSA"}, "wrong_algorithm"),
        ({"alg": "ES384"}, "wrong_algorithm"),
        ({"alg": None}, "wrong_algorithm"),
        ({"alg": ["ES256"]}, "wrong_algorithm"),
        ({"kid": None}, "no_key_id"),
        ({"kid": ""}, "no_key_id"),
        ({"kid": 1}, "no_key_id"),
        ({"kid": "k" * 257}, "no_key_id"),
        ({"kid": "key-2"}, "unknown_key"),
        ({"typ": "at+jwt"}, "wrong_type"),
        ({"typ": "jwt"}, "wrong_type"),
        ({"typ": ["JWT"]}, "wrong_type"),
        ({"cty": "JWT"}, "strange_header"),
        ({"note": "x"}, "strange_header"),
        ({"crit": ["exp"]}, "strange_header"),
        ({"b64": False}, "strange_header"),
        ({"zip": "DEF"}, "strange_header"),
        ({"jku": "https://evil.test/"}, "strange_header"),
        ({"jwk": MINTER.jwk()}, "strange_header"),
        ({"x5c": []}, "strange_header"),
        ({"x5u": "https://evil.test/"}, "strange_header"),
    ],
    ids=str,
)
def test_refuses_every_other_header(header: dict[str, Any], expected: str) -> None:
    """What chooses keys and algorithms is ours, not the token's."""
    assert reason(signed(**header)) == expected


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"sub": None}, "no_subject"),
        ({"sub": 1}, "no_subject"),
        ({"sub": "caller"}, "not_spiffe"),
        ({"sub": CALLER.upper()}, "not_spiffe"),
        ({"sub": CALLER + "/"}, "not_spiffe"),
        ({"sub": CALLER + "\n"}, "not_spiffe"),
        ({"sub": "spiffe://cluster.local"}, "no_path"),
        ({"sub": "spiffe://other.test/caller"}, "no_bundle"),
        ({"aud": None}, "no_audience"),
        ({"aud": []}, "no_audience"),
        ({"aud": [1]}, "no_audience"),
        ({"aud": {US: 1}}, "no_audience"),
        ({"aud": [US] * 65}, "no_audience"),
        ({"aud": "somebody"}, "wrong_audience"),
        ({"aud": [US + "/x", US[:-1], US.upper()]}, "wrong_audience"),
        ({"aud": f"{US} "}, "wrong_audience"),
        ({"exp": None}, "no_expiry"),
        ({"exp": str(MINTER.now + 300)}, "strange_claims"),
        ({"exp": MINTER.now + 300.5}, "strange_claims"),
        ({"exp": True}, "strange_claims"),
        ({"exp": MINTER.now - 5}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": MINTER.now + 86_401}, "too_long_lived"),
        ({"exp": MINTER.now + 86_401, "iat": None}, "too_long_lived"),
        ({"exp": 10**30}, "too_long_lived"),
        ({"nbf": MINTER.now + 6}, "not_yet_valid"),
        ({"nbf": "now"}, "strange_claims"),
        ({"iat": MINTER.now + 6}, "issued_in_the_future"),
        ({"iat": [MINTER.now]}, "strange_claims"),
        ({"deep": [[[[[[[[1]]]]]]]]}, "strange_claims"),
    ],
    ids=str,
)
def test_refuses_every_other_claim(claims: dict[str, Any], expected: str) -> None:
    """Each claim that the standard rules has to be there and as it says."""
    assert reason(MINTER.token(CALLER, US, **claims)) == expected


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": US},
        {"aud": ["somebody", US]},
        {"exp": MINTER.now - 4},
        {"exp": MINTER.now + 86_400},
        {"iat": None},
        {"iat": MINTER.now + 5, "nbf": MINTER.now + 5},
        {"deep": [[[[[[1]]]]]], "number": 10**20},
    ],
    ids=str,
)
def test_takes_what_the_standard_allows(claims: dict[str, Any]) -> None:
    """Being strict does not mean refusing what other issuers rightly write."""
    assert str(verified(MINTER.token(CALLER, US, **claims)).identity) == CALLER


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b'{"exp": NaN}',
        json.dumps(MINTER.claims(CALLER, US)).encode()[:-1] + b', "sub": "x"}',
    ],
)
def test_refuses_what_two_readers_could_read_differently(payload: bytes) -> None:
    """Above all a claim that stands twice."""
    token = MINTER.signed(MINTER.header(), payload)
    assert reason(token) in {"strange_claims", "malformed"}


@pytest.mark.parametrize(
    "token",
    [
        "",
        "..",
        "a.b",
        GOOD + ".x",
        GOOD.replace(".", "..", 1),
        GOOD + "=",
        GOOD + "\n",
        " " + GOOD,
        "Bearer " + GOOD,
        "a" * 8193,
    ],
    ids=lambda text: repr(text)[-30:],
)
def test_refuses_what_is_no_token(token: str) -> None:
    """The compact form, and nothing around it."""
    assert reason(token) == "malformed"


def test_refuses_a_token_that_others_signed() -> None:
    """Neither a stranger's key of the same ID, nor a known domain's, can vouch."""
    stranger = Minter("cluster.local", CLOCK.now())
    assert reason(stranger.token(CALLER, US)) == "bad_signature"
    other = Minter("other.test", CLOCK.now(), kid="key-2")
    both = MINTER.bundle, other.bundle
    assert reason(other.token(CALLER, US), *both) == "unknown_key"
    theirs = "spiffe://other.test/caller"
    assert str(verified(other.token(theirs, US), *both).identity) == theirs


@pytest.mark.parametrize(
    "changes",
    [
        {"d": "AQ"},
        {"kty": "oct", "k": "AQ"},
        {"kty": "OKP", "crv": "Ed25519"},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"alg": "ES384"},
        {"alg": "none"},
        {"alg": ["ES256"]},
        {"use": "enc"},
        {"use": ["sig"]},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"x": None},
        {"x": 1},
        {"x": "AQ"},
        {"y": encode_base64url(bytes(32))},
    ],
    ids=str,
)
def test_refuses_keys_that_are_no_use(changes: dict[str, Any]) -> None:
    """A key that is not what it says, or is for something else, proves nothing."""
    keys = {MINTER.kid: MINTER.jwk(**changes)}
    assert reason(GOOD, JWTBundle("cluster.local", keys)) == "unusable_key"


RSA = Minter("cluster.local", CLOCK.now(), algorithm="RS256")
MODULUS = int.from_bytes(decode_base64url(RSA.jwk()["n"]))


def number(value: int, pad: int = 0) -> str:
    size = (value.bit_length() + 7) // 8 + pad
    return encode_base64url(value.to_bytes(size))


@pytest.mark.parametrize(
    "changes",
    [
        {"n": number(MODULUS, 1)},
        {"n": number(MODULUS >> 1024)},
        {"n": number(1 << 8192)},
        {"n": ""},
        {"e": number(3)},
        {"e": number(65536)},
        {"e": number(65537, 1)},
        {"e": number((1 << 33) + 1)},
        {"e": None},
        {"alg": "ES256"},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_refuses_odd_rsa_keys(changes: dict[str, Any]) -> None:
    """Short, huge, unusual and not written in their one form."""
    with pytest.raises(ValueError, match=r"."):
        SvidKey.parse(RSA.jwk(**changes))


class TestBundlesThatChange:
    """The verdict follows the bundle."""

    def test_a_key_that_is_gone_proves_nothing_any_more(self) -> None:
        """A verdict is remembered only while the bundle is the same."""
        held = Bundles(MINTER.bundle)
        verifier = JWTSVIDVerifier(held, US, clock=CLOCK)
        assert verifier.verify(GOOD) is verifier.verify(GOOD)
        second = Minter("cluster.local", CLOCK.now(), kid="key-2")
        both = {MINTER.kid: MINTER.jwk(), second.kid: second.jwk()}
        held.held = {"cluster.local": JWTBundle("cluster.local", both)}
        assert verifier.verify(GOOD) == verifier.verify(GOOD)
        assert verifier.verify(second.token(CALLER, US))
        held.held = {"cluster.local": second.bundle}
        with pytest.raises(TokenRefusedError) as caught:
            verifier.verify(GOOD)
        assert caught.value.reason == "unknown_key"
        held.held = {}
        with pytest.raises(TokenRefusedError) as caught:
            verifier.verify(GOOD)
        assert caught.value.reason == "no_bundle"

    def test_an_empty_bundle_trusts_nobody(self) -> None:
        """A domain that took all its keys back."""
        assert reason(GOOD, JWTBundle("cluster.local", {})) == "unknown_key"

    def test_a_remembered_token_expires_all_the_same(self) -> None:
        """The times are looked at on every call."""
        clock = FakeClock(CLOCK.now())
        verifier = JWTSVIDVerifier(Bundles(MINTER.bundle), US, clock=clock)
        assert verifier.verify(GOOD)
        clock.jump(305)
        with pytest.raises(TokenRefusedError) as caught:
            verifier.verify(GOOD)
        assert caught.value.reason == "expired"


@pytest.mark.parametrize("options", [{"leeway": -1}, {"leeway": 61}])
def test_clocks_may_not_differ_by_much(options: dict[str, Any]) -> None:
    """An hour of leeway would be an hour of life more for every token."""
    with pytest.raises(ValueError, match="at most 60"):
        JWTSVIDVerifier(Bundles(), US, **options)


def test_a_verifier_has_a_name() -> None:
    """Nobody is an audience that a token could name by mistake."""
    with pytest.raises(ValueError, match="name"):
        JWTSVIDVerifier(Bundles(), "")


@given(st.text() | st.text("ab.-_=", max_size=40))
def test_any_text_is_refused(token: str) -> None:
    """No text fails in another way than by our error."""
    event(reason(token))


@given(st.data())
def test_a_spoiled_token_is_refused(data: st.DataObject) -> None:
    """Whatever character of a token is changed, nobody is believed."""
    position = data.draw(st.integers(0, len(GOOD) - 1))
    char = data.draw(st.characters(max_codepoint=0x2FF))
    token = GOOD[:position] + char + GOOD[position + 1 :]
    if token != GOOD:
        event(reason(token))


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit"]), JSONS),
    st.dictionaries(st.sampled_from(["sub", "aud", "exp", "iat", "nbf", "x"]), JSONS),
)
def test_any_json_is_an_error_or_a_good_token(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    """Whatever a true key signs, two readers agree, or it is refused."""
    whole = {**MINTER.claims(CALLER, US), **claims}
    token = MINTER.signed({**MINTER.header(), **header}, json.dumps(whole).encode())
    with suppress(TokenRefusedError):
        svid = verified(token)
        assert str(svid.identity) == whole["sub"]
        assert svid.claims == json.loads(json.dumps(whole))


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use"]), JSONS)
)
def test_any_jwk_is_an_error_or_a_key(members: dict[str, Any]) -> None:
    """No JWK fails in another way than by being refused."""
    for base in (MINTER.jwk(), RSA.jwk()):
        with suppress(ValueError):
            SvidKey.parse({**base, **members})
