"""DER taken apart, spoiled and put together again; a second reader of certificates."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509

    from tests.forge import Signer

__all__ = ["Reading", "mangled", "meaning", "parsed", "resigned", "written"]

_CONSTRUCTED = 0x20
_OCTETS = 0x04
_BITS = 0x03
_LONG = 0x80
_URI = 0x86
Node = list[Any]  # [tag, bytes or a list of nodes]


def parsed(data: bytes) -> list[Node]:
    """Return the elements in *data*; octet strings that hold DER are opened too.

    Raises:
        ValueError: *data* is no row of elements.
    """
    nodes: list[Node] = []
    while data:
        head, length = 2, int.from_bytes(data[1:2])
        if length & _LONG:
            head += length & ~_LONG
            length = int.from_bytes(data[2:head])
        if len(data) < head + length:
            raise ValueError("torn")
        content, tag, data = data[head : head + length], data[0], data[head + length :]
        nodes.append([tag, _opened(tag, content)])
    return nodes


def _opened(tag: int, content: bytes) -> bytes | list[Node]:
    if tag & _CONSTRUCTED:
        return parsed(content)
    if tag == _OCTETS and content[:1] in {b"\x30", b"\x03"}:
        try:
            inside = parsed(content)
        except ValueError:
            return content
        return inside if written(inside) == content else content
    return content


def written(nodes: list[Node]) -> bytes:
    """Return *nodes* as DER."""
    return b"".join(_element(tag, content) for tag, content in nodes)


def _element(tag: int, content: bytes | list[Node]) -> bytes:
    body = written(content) if isinstance(content, list) else content
    size = len(body)
    if size < _LONG:
        return bytes((tag, size)) + body
    digits = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, _LONG | len(digits))) + digits + body


@st.composite
def mangled(draw: st.DrawFn, data: bytes, accidents: int = 3) -> bytes:
    """Return *data* after so many *accidents* at most."""
    for _ in range(draw(st.integers(1, accidents))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        before, part, after = data[:start], data[start:end], data[end:]
        data = draw(
            st.sampled_from(
                (
                    before + after,
                    before,
                    after,
                    before + part + part + after,
                    before + part[::-1] + after,
                    before + bytes(byte ^ 1 for byte in part[:1]) + part[1:] + after,
                    before + draw(st.binary(max_size=4)) + after,
                )
            )
        )
    return data


@st.composite
def resigned(draw: st.DrawFn, der: bytes, signer: Signer) -> bytes:
    """Return the certificate *der* with another content, truly signed by *signer*."""
    [[tag, [content, algorithm, _]]] = parsed(der)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        nodes, index = draw(st.sampled_from(places))
        other, at = draw(st.sampled_from(places))
        node = nodes[index]
        match draw(st.integers(0, 5)):
            case 0 if len(nodes) > 1:
                del nodes[index]
            case 1:
                nodes.insert(index, deepcopy(node))
            case 2:
                nodes[index] = deepcopy(other[at])
            case 3:
                node[0] ^= 1 << draw(st.integers(0, 7))
            case _ if isinstance(node[1], bytes):
                node[1] = draw(mangled(node[1]))
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    signature = signer.key.sign(written([content]), ec.ECDSA(hashes.SHA256()))
    return written([[tag, [content, algorithm, [_BITS, b"\0" + signature]]]])


def _places(node: Node) -> Iterator[tuple[list[Node], int]]:
    """Yield every place below *node*, as a list and the index in it."""
    if isinstance(node[1], list):
        for index, child in enumerate(node[1]):
            yield node[1], index
            yield from _places(child)


def meaning(root: x509.Certificate) -> tuple[object, ...]:
    """Return all of *root* that counts; nobody asks an anchor who signed it."""
    span = root.not_valid_before_utc, root.not_valid_after_utc
    return root.subject, root.public_key(), span, list(root.extensions)


class Reading(NamedTuple):
    """What a certificate says, read without any library."""

    uris: list[bytes]
    ca: bool
    usage: int
    not_after: bytes

    @classmethod
    def of(cls, der: bytes) -> Reading:
        [[_, [[_, content], _, _]]] = parsed(der)
        extensions = {
            written([each[1][0]])[2:]: each[1][-1][1]
            for [tag, held] in content
            if tag == 0xA3  # [3], the extensions
            for each in held[0][1]
        }
        [[_, names]] = extensions[b"\x55\x1d\x11"]
        [[_, basic]] = extensions.get(b"\x55\x1d\x13", [[0x30, []]])
        [[_, usage]] = extensions[b"\x55\x1d\x0f"]
        [validity] = [each for each in content if _is_validity(each)]
        return cls(
            [content for tag, content in names if tag == _URI],
            any(node == [0x01, b"\xff"] for node in basic),
            usage[1],
            validity[1][1][1],
        )


def _is_validity(node: Node) -> bool:
    times = {0x17, 0x18}
    held = node[1]
    return isinstance(held, list) and len(held) == 2 and {t for t, _ in held} <= times
