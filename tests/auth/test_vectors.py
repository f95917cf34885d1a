"""Project Wycheproof's signed tokens and keys, each judged as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from auth import KeySet, TokenRefusedError
from auth._jws import Jws
from auth._svid_keys import SvidKey

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "vectors" / "wycheproof"


def cases(name: str) -> Iterator[Any]:
    """Yield (keys, token, verdict) of each vector in the file *name*."""
    groups = json.loads((FOLDER / name).read_text())["testGroups"]
    for group in groups:
        told = group.get("public") or group["private"]
        jwks = told.get("keys", [told])
        for test in group["tests"]:
            named = f"{test['tcId']}-{test['comment']}"
            yield pytest.param(jwks, test["jws"], test["result"], id=named)


def ours(jwk: dict[str, Any]) -> bool:
    """Whether *jwk* is of a kind that we take; halves that sign are not."""
    return jwk.get("crv") == "P-256" and jwk.get("kty") == "EC"


def accepts(jwks: list[dict[str, Any]], token: Any) -> bool:
    """Whether we take *token*, given the public halves of *jwks*."""
    public = [
        {k: v for k, v in jwk.items() if not (k == "d" and ours(jwk))} for jwk in jwks
    ]
    try:
        jws = Jws.parse(token if isinstance(token, str) else json.dumps(token))
        key = KeySet.parse(public).keys[jws.header["kid"]]
        jws.payload_proven_by(key)
    except (TokenRefusedError, ValueError, KeyError):
        return False
    return True


@pytest.mark.parametrize(
    ("jwks", "token", "verdict"),
    [*cases("json_web_signature.json"), *cases("json_web_key.json")],
)
def test_judges_as_wycheproof(
    jwks: list[dict[str, Any]], token: Any, verdict: str
) -> None:
    """Nothing invalid is taken, and all that is valid with a key of our kinds is."""
    assert accepts(jwks, token) == (verdict == "valid" and all(map(ours, jwks)))


# Said to be valid, though their keys name an algorithm that the token is not of; and
# one to be invalid for a flaw in the chips of one maker, which only its issuer sees
OTHERWISE = (
    *("346-Figure20", "347-Figure27", "350-Figure20", "351-Figure27"),
    "7-rejectsKeyWithRocaVulnerability",
)


def ours_for_svids(jwk: dict[str, Any]) -> bool:
    """Whether *jwk* is of a kind that may sign JWT-SVIDs; halves that sign are not."""
    return jwk.get("kty") in {"EC", "RSA"} and jwk.get("crv") != "secp256k1"


def accepts_svid(jwks: list[dict[str, Any]], token: Any) -> bool:
    """Whether we take *token* as signed by one of *jwks*."""
    private = {"d", "p", "q", "dp", "dq", "qi"}
    public = [{k: v for k, v in jwk.items() if k not in private} for jwk in jwks]
    try:
        jws = Jws.parse(token if isinstance(token, str) else json.dumps(token))
        [named] = [jwk for jwk in public if jwk.get("kid") == jws.header.get("kid")]
        jws.payload_proven_by(SvidKey.parse(named))
    except (TokenRefusedError, ValueError, KeyError):
        return False
    return True


@pytest.mark.parametrize(
    ("jwks", "token", "verdict"),
    [
        each
        for each in (*cases("json_web_signature.json"), *cases("json_web_key.json"))
        if each.id not in OTHERWISE
    ],
)
def test_judges_svids_as_wycheproof(
    jwks: list[dict[str, Any]], token: Any, verdict: str
) -> None:
    """The same for the keys of JWT-SVIDs: RSA, and three curves."""
    expected = verdict == "valid" and all(map(ours_for_svids, jwks))
    assert accepts_svid(jwks, token) == expected
