"""A token proves one caller to one sandbox, in one form, and nothing else does."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from auth import (
    KeySet,
    Principal,
    PublicKeys,
    Signer,
    TokenRefusedError,
    Verifier,
    bearer,
)
from auth._jwk import PrivateKey
from auth._jws import Jws
from tests.auth.conftest import ALICE, SANDBOX, SESSION, encoded
from tlsloader.strict import encode_base64url, parse_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from auth._jwk import Algorithm
    from tests.auth.conftest import Bench, Files

    Change = dict[str, Any]


def signed(key: PrivateKey, header: object, claims: object) -> str:
    """Return a token of any header and claims, truly signed by *key*."""
    text = f"{encoded(header)}.{encoded(claims)}"
    if isinstance(key.key, Ed25519PrivateKey):
        signature = key.key.sign(text.encode())
    else:
        der = key.key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))
        signature = b"".join(n.to_bytes(32) for n in decode_dss_signature(der))
    return f"{text}.{encode_base64url(signature)}"


def refusal(bench: Bench, token: str, **options: Any) -> str:
    """Return the reason for which *token* is refused."""
    with pytest.raises(TokenRefusedError) as caught:
        bench.verifier.verify(token, **options)
    assert token not in str(caught.value) or not token
    return caught.value.reason


def test_a_token_tells_who_calls_which_session(bench: Bench) -> None:
    """What the Router signed is what PicoD reads, and no more."""
    token = bench.signer.token(SESSION, SANDBOX, ALICE)
    claims = bench.verifier.verify(token, session_id=SESSION)
    now = int(bench.clock.now().timestamp())
    assert (claims.principal, claims.session_id, claims.audience) == (
        ALICE,
        SESSION,
        SANDBOX,
    )
    assert (claims.issued, claims.expires) == (now, now + 300)


def test_the_forger_makes_good_tokens_too(bench: Bench) -> None:
    """The refusals below are due to what is changed, not to the forger."""
    token = signed(bench.key, bench.header(), bench.claims())
    assert bench.verifier.verify(token).principal == ALICE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"aud": "sbx-" + "c" * 26}, "wrong_audience"),
        ({"aud": SANDBOX + "x"}, "wrong_audience"),
        ({"aud": SANDBOX[:-1]}, "wrong_audience"),
        ({"aud": ""}, "wrong_audience"),
        ({"aud": [SANDBOX]}, "strange_claims"),
        ({"aud": None}, "strange_claims"),
        ({"iss": "agentcube-router2"}, "wrong_issuer"),
        ({"iss": "agentcube"}, "wrong_issuer"),
        ({"iss": ["agentcube-router"]}, "strange_claims"),
        ({"iss": None}, "strange_claims"),
        ({"sub": None}, "strange_claims"),
        ({"sub": ""}, "strange_claims"),
        ({"sub": "a\nb"}, "strange_claims"),
        ({"sub": "x" * 2049}, "strange_claims"),
        ({"sub_iss": 7}, "strange_claims"),
        ({"name": True}, "strange_claims"),
        ({"sid": None}, "strange_claims"),
        ({"sid": 7}, "strange_claims"),
        ({"sid": "ses-" + "A" * 26}, "strange_claims"),
        ({"sid": SESSION + "\n"}, "strange_claims"),
        ({"sid": "sbx-" + "a" * 26}, "strange_claims"),
        ({"iat": None}, "strange_claims"),
        ({"iat": "1893456000"}, "strange_claims"),
        ({"iat": 1893456000.0}, "strange_claims"),
        ({"iat": True}, "strange_claims"),
        ({"iat": 10**400}, "issued_in_the_future"),
        ({"exp": None}, "strange_claims"),
        ({"exp": 10**400}, "too_long_lived"),
        ({"exp": -1}, "expired"),
        ({"nbf": 0}, "strange_claims"),
        ({"admin": "true"}, "strange_claims"),
        ({"act": {"sub": "x"}}, "strange_claims"),
    ],
)
def test_refuses_claims(bench: Bench, change: Change, reason: str) -> None:
    """Each claim is checked for itself, though the signature is good."""
    token = signed(bench.key, bench.header(), bench.claims(**change))
    assert refusal(bench, token) == reason


@pytest.mark.parametrize(
    ("issued", "expires", "reason"),
    [
        (0, 301, "too_long_lived"),
        (0, 0, "too_long_lived"),
        (3, 2, "too_long_lived"),
        (6, 300, "issued_in_the_future"),
        (-300, -5, "expired"),
        (-(10**6), -(10**6) + 300, "expired"),
    ],
)
def test_refuses_times(bench: Bench, issued: int, expires: int, reason: str) -> None:
    """A token lives five minutes at most, and now; five seconds of skew are given."""
    now = int(bench.clock.now().timestamp())
    claims = bench.claims(iat=now + issued, exp=now + expires)
    assert refusal(bench, signed(bench.key, bench.header(), claims)) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alg": "none"}, "wrong_algorithm"),
        ({"alg": "HS256"}, "wrong_algorithm"),
        ({"alg": "RS256"}, "wrong_algorithm"),
        ({"alg": "ES384"}, "wrong_algorithm"),
        ({"alg": "es256"}, "wrong_algorithm"),
        ({"alg": ["ES256"]}, "wrong_algorithm"),
        ({"alg": None}, "strange_header"),
        ({"kid": "unknown"}, "unknown_key"),
        ({"kid": 7}, "unknown_key"),
        ({"kid": ["x"]}, "unknown_key"),
        ({"kid": None}, "strange_header"),
        ({"typ": "JWT"}, "wrong_type"),
        ({"typ": "at+jwt"}, "wrong_type"),
        ({"typ": None}, "strange_header"),
        ({"crit": ["exp"]}, "strange_header"),
        ({"crit": []}, "strange_header"),
        ({"b64": False, "crit": ["b64"]}, "strange_header"),
        ({"jku": "https://evil.example/jwks"}, "strange_header"),
        ({"jwk": {"kty": "EC"}}, "strange_header"),
        ({"x5u": "https://evil.example"}, "strange_header"),
        ({"x5c": []}, "strange_header"),
        ({"zip": "DEF"}, "strange_header"),
        ({"cty": "JWT"}, "strange_header"),
    ],
)
def test_refuses_headers(bench: Bench, change: Change, reason: str) -> None:
    """The header chooses among our keys and cannot bring anything along."""
    token = signed(bench.key, bench.header(**change), bench.claims())
    assert refusal(bench, token) == reason


def unsigned(bench: Bench) -> str:
    """Leave the signature out, under every name of "none"."""
    return f"{encoded(bench.header())}.{encoded(bench.claims())}."


def by_public_key_as_secret(bench: Bench) -> str:
    """Sign with HMAC, the public key being the secret."""
    text = f"{encoded(bench.header(alg='HS256'))}.{encoded(bench.claims())}"
    pem = bench.key.key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    mac = hmac.digest(pem, text.encode(), hashlib.sha256)
    return f"{text}.{encode_base64url(mac)}"


def by_rsa(bench: Bench) -> str:
    """Sign with an RSA key of the forger."""
    text = f"{encoded(bench.header(alg='RS256'))}.{encoded(bench.claims())}"
    key = rsa.generate_private_key(65537, 2048)
    signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{encode_base64url(signature)}"


def by_another_key(bench: Bench) -> str:
    """Sign with another key of the same kind under the published name."""
    other = PrivateKey.generate(bench.key.algorithm, 0)
    return signed(other, bench.header(), bench.claims())


def by_the_other_kind(bench: Bench) -> str:
    """Sign with a key of the other kind, and say so."""
    kind: Algorithm = "EdDSA" if bench.key.algorithm == "ES256" else "ES256"
    other = PrivateKey.generate(kind, 0)
    return signed(other, bench.header(alg=kind), bench.claims())


def in_der(bench: Bench) -> str:
    """Add a byte to the signature."""
    return _tampered(bench, lambda part: encode_base64url(b"0" + part.encode()))


def padded(bench: Bench) -> str:
    """Write the base64 padding that the standard forbids."""
    return _tampered(bench, lambda part: part + "==")


def with_stray_bits(bench: Bench) -> str:
    """Change bits of the last character that no byte uses."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return _tampered(
        bench, lambda part: part[:-1] + alphabet[alphabet.index(part[-1]) ^ 1]
    )


def with_a_newline(bench: Bench) -> str:
    """End with a newline, which lenient decoders drop."""
    return _tampered(bench, lambda part: part + "\n")


def with_a_fourth_part(bench: Bench) -> str:
    """Append a part."""
    return _tampered(bench, lambda part: part + ".AAAA")


def huge(bench: Bench) -> str:
    """Write a truly signed token that is too long."""
    return signed(bench.key, bench.header(), bench.claims(x="a" * 8192))


def deep(bench: Bench) -> str:
    """Nest the claims as deep as the size allows."""
    return signed(bench.key, bench.header(), '{"a":' + "[" * 5000 + "]" * 500)


def _tampered(bench: Bench, change: Callable[[str], str]) -> str:
    token = bench.signer.token(SESSION, SANDBOX, ALICE)
    head, signature = token.rsplit(".", 1)
    return f"{head}.{change(signature)}"


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (unsigned, "bad_signature"),
        (by_public_key_as_secret, "wrong_algorithm"),
        (by_rsa, "wrong_algorithm"),
        (by_another_key, "bad_signature"),
        (by_the_other_kind, "wrong_algorithm"),
        (in_der, "bad_signature"),
        (padded, "malformed"),
        (with_stray_bits, "malformed"),
        (with_a_newline, "malformed"),
        (with_a_fourth_part, "malformed"),
        (huge, "malformed"),
        (deep, "strange_claims"),
    ],
)
def test_refuses_forgeries(
    bench: Bench, forge: Callable[[Bench], str], reason: str
) -> None:
    """Every known way around a signature ends in a refusal."""
    assert refusal(bench, forge(bench)) == reason


@pytest.mark.parametrize(
    "claims",
    [
        '{"iss":"agentcube-router","iss":"agentcube-router"}',
        '{"iat":NaN}',
        '{"iat":1e3}',
        "[]",
        "7",
        '{"a":1}x',
        "\ufeff{}",
        "",
    ],
)
def test_refuses_ambiguous_json(bench: Bench, claims: str) -> None:
    """What two parsers could read in two ways is read by none."""
    token = signed(bench.key, bench.header(), claims)
    assert refusal(bench, token) == "strange_claims"


@pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b.c", "\ud800", "é.é.é"])
def test_refuses_what_is_no_token(bench: Bench, token: str) -> None:
    """Anything may stand after "Bearer"."""
    assert refusal(bench, token) == "malformed"


def test_another_session_is_refused_once_bound(bench: Bench) -> None:
    """A token of the session before cannot be used on the one after."""
    token = bench.signer.token(SESSION, SANDBOX, ALICE)
    bench.verifier.verify(token)
    assert refusal(bench, token, session_id="ses-" + "b" * 26) == "wrong_session"


def test_a_cached_token_expires_all_the_same(bench: Bench) -> None:
    """The cache saves the signature's cost, not the look at the clock."""
    token = bench.signer.token(SESSION, SANDBOX, ALICE)
    bench.clock.jump(304)
    bench.verifier.verify(token)
    bench.clock.jump(1)
    assert refusal(bench, token) == "expired"


def test_a_withdrawn_key_ends_its_tokens_at_once(bench: Bench) -> None:
    """A key taken from the file proves nothing more, cached or not."""
    token = bench.signer.token(SESSION, SANDBOX, ALICE)
    bench.verifier.verify(token)
    other = PrivateKey.generate("ES256", 0)
    generation = bench.public.current().generation + 1
    bench.public._current = KeySet.parse([other.public.dump()], generation)
    assert refusal(bench, token) == "unknown_key"


@pytest.mark.parametrize("name", ["b64", "crit", "jku", "jwk", "x5c", "x5u", "zip"])
def test_no_signed_form_has_extensions(bench: Bench, name: str) -> None:
    """Tokens of other kinds, should they come, start from the same rule."""
    token = signed(bench.key, bench.header(**{name: "x"}), bench.claims())
    with pytest.raises(TokenRefusedError, match=name):
        Jws.parse(token)


def test_size_is_looked_at_first() -> None:
    """Nobody can make us decode megabytes."""
    with pytest.raises(TokenRefusedError, match="longer"):
        Jws.parse("A" * 8193)


def test_nesting_has_an_end() -> None:
    """Valid JSON can still be meant to exhaust whoever walks it."""
    assert parse_object(b'{"a":[{"b":[]}]}', 100)
    with pytest.raises(ValueError, match="deep"):
        parse_object(b'{"a":[{"b":[[]]}]}', 100)


def test_signs_once_and_again_near_the_end(bench: Bench) -> None:
    """One signature serves a (session, caller) until a quarter of its life is left."""
    first = bench.signer.token(SESSION, SANDBOX, ALICE)
    bench.clock.jump(224)
    assert bench.signer.token(SESSION, SANDBOX, ALICE) == first
    bench.clock.jump(2)
    second = bench.signer.token(SESSION, SANDBOX, ALICE)
    assert second != first
    assert bench.verifier.verify(second).principal == ALICE


def test_every_caller_session_and_sandbox_has_its_own_token(bench: Bench) -> None:
    """No cached token is ever given to somebody else."""
    bob = Principal(ALICE.issuer, ALICE.subject + "x", ALICE.display)
    other = Principal(ALICE.issuer + "x", ALICE.subject, ALICE.display)
    tokens = {
        bench.signer.token(SESSION, SANDBOX, ALICE),
        bench.signer.token(SESSION, SANDBOX, bob),
        bench.signer.token(SESSION, SANDBOX, other),
        bench.signer.token("ses-" + "b" * 26, SANDBOX, ALICE),
        bench.signer.token(SESSION, "sbx-" + "c" * 26, ALICE),
    }
    assert len(tokens) == 5


async def test_caches_are_bounded(files: Files) -> None:
    """Many sessions and many tokens cannot fill the memory."""
    keys = await files.load(algorithm="EdDSA")
    public = PublicKeys(files.public, KeySet.load(files.public))
    signer = Signer(keys, clock=files.clock, cache=3)
    verifier = Verifier(public, SANDBOX, clock=files.clock, cache=3)
    for number in range(10):
        session = "ses-" + "abcdefghij"[number] * 26
        verifier.verify(signer.token(session, SANDBOX, ALICE))
    assert len(signer._cache) == len(verifier._cache) == 3


def test_a_life_beyond_the_limit_cannot_be_configured(bench: Bench) -> None:
    """The five minutes are a rule, not a default."""
    with pytest.raises(ValueError, match="300"):
        Signer(bench.signer._keys, life=301)


@pytest.mark.slow
@given(st.text(max_size=200) | st.binary(max_size=200).map(encode_base64url))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Whatever arrives, the answer is a token or a refusal."""
    for token in (text, f"{text}.{text}.{text}", f"e30.{text}.{text}"):
        try:
            Jws.parse(token)
        except TokenRefusedError as error:
            assert error.reason  # noqa: PT017 - no refusal is fine as well


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_finds_the_bearer_token(scheme: str) -> None:
    """The scheme is compared without case. Source: RFC 9110, section 11.1."""
    metadata = [("x-request-id", "1"), ("authorization", f"{scheme} a.b.c")]
    assert bearer(metadata) == "a.b.c"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no_token"),
        (["Bearer a", "Bearer a"], "malformed"),
        (["Basic a"], "malformed"),
        (["Bearer"], "malformed"),
        (["Bearer "], "malformed"),
        ([b"Bearer a"], "malformed"),
    ],
)
def test_takes_exactly_one_bearer_token(values: list[Any], reason: str) -> None:
    """Two tokens are as good as none: nobody can say which one was meant."""
    with pytest.raises(TokenRefusedError) as caught:
        bearer([("authorization", value) for value in values])
    assert caught.value.reason == reason
