from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workloadmanager import _ids


def test_ids_carry_128_bits_as_26_characters() -> None:
    """Every bit of the randomness shows, in characters that paths and DNS take."""
    assert _ids.session_id(bytes) == "ses-" + 26 * "a"
    assert _ids.sandbox_id(lambda n: n * b"\xff") == "sbx-" + 25 * "7" + "4"


@given(st.binary(min_size=16, max_size=16))
def test_every_id_is_recognised_and_a_label(bits: bytes) -> None:
    """What we make, we accept, and a SPIFFE path or host name accepts it too."""
    session, sandbox = _ids.session_id(lambda _: bits), _ids.sandbox_id(lambda _: bits)
    assert _ids.is_session_id(session)
    assert _ids.is_sandbox_id(sandbox)
    assert _ids.is_label(sandbox)


def test_what_is_no_id_is_not_taken_for_one() -> None:
    """A folder's name or a request cannot pass for an id by looking like one."""
    good = _ids.sandbox_id()
    for text in ("", good[:-1], good + "a", good.upper(), "../" + good, good + "\n"):
        assert not _ids.is_sandbox_id(text), text
    assert not _ids.is_session_id(good)


def test_labels_are_those_of_rfc_1123() -> None:
    """Names that Kubernetes would refuse are refused here."""
    for text in ("a", "a-1", "0", "a" * 63):
        assert _ids.is_label(text), text
    for text in ("", "-a", "a-", "A", "a.b", "a_b", "a" * 64, "a\n", "ä"):
        assert not _ids.is_label(text), text
