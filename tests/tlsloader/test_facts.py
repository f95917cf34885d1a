"""What certificates say is told so that a terminal only shows it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.forge import Forge
from tests.tlsloader.transport import PICOD
from tlsloader.facts import Facts

FORGE = Forge()


def test_names_kinds_and_life() -> None:
    """PEM and DER say the same."""
    svid = FORGE.svid(PICOD, dns=("a.test", "b.test"), age=60, life=180)
    facts = Facts.read(svid.chain)
    assert facts == Facts.read(svid.ders[0])
    assert (facts.uris, facts.dns) == ((PICOD,), ("a.test", "b.test"))
    assert facts.sha256 == svid.leaf_sha256
    assert int(facts.serial, 16) == svid.certificates[0].serial_number
    assert facts.share_left(FORGE.now) == pytest.approx(0.75, abs=0.01)
    assert facts.share_left(facts.end) == 0


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (rsa.generate_private_key(65537, 2048), "RSA 2048"),
        (None, "ECDSA secp256r1"),
    ],
)
def test_kinds_of_keys(key: object, kind: str) -> None:
    """By the names that people know."""
    assert Facts.read(FORGE.svid(PICOD, key=key).chain).key == kind


def test_a_hostile_name_commands_no_terminal() -> None:
    """Nobody has proven who made it: no escape, no new line, no flood gets through."""
    svid = FORGE.svid(PICOD, dns=("\x1b[2J", "a\nok  all is well", "x" * 9000))
    facts = Facts.read(svid.chain)
    assert facts.dns[:2] == ("\\x1b[2J", "a\\nok  all is well")
    assert len(facts.dns[2]) == 200


@given(st.binary(max_size=200) | st.binary().map(b"-----BEGIN ".__add__))
def test_what_is_no_certificate_is_a_value_error(data: bytes) -> None:
    """Whatever a server shows, the reader goes on."""
    with pytest.raises(ValueError, match="cannot be read"):
        Facts.read(data)
