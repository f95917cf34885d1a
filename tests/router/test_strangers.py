"""Nobody but its owner gets at a session, by whatever method the contract has.

The cases are made from the service descriptors: a method added to either service is
tested here without anybody thinking of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.router.mesh import METHODS, SESSION, error_of, mesh

if TYPE_CHECKING:
    from pathlib import Path

_SESSIONS = "/cubemesh.v1.Sessions/"
# What concerns no single session. A method added here must be argued for: each one
# has a test of its own in test_servicer.py.
OF_NO_SESSION = frozenset(
    _SESSIONS + name for name in ("CreateSession", "ListSessions", "ListTemplates")
)
OF_ONE_SESSION = sorted(METHODS.keys() - OF_NO_SESSION)


def call_in(front: Any, path: str, who: str, session: str) -> Any:
    """Call *path* about *session*, named in the message or in the metadata."""
    method = METHODS[path]
    kind = "_".join(
        "stream" if many else "unary"
        for many in (method.client_streaming, method.server_streaming)
    )
    metadata = [("x-who", who), (SESSION, session)]
    request: Any = b""
    if path.startswith(_SESSIONS):
        field = method.input_type.fields_by_name["session_id"]
        raw = session.encode()
        request = bytes((field.number << 3 | 2, len(raw))) + raw
    if method.client_streaming:
        request = iter((request,))
    return getattr(front, kind)(path)(request, metadata=metadata)


def test_every_method_is_of_one_session_or_argued_for() -> None:
    """The exceptions exist, and no other method of Sessions lacks a session_id."""
    assert METHODS.keys() >= OF_NO_SESSION
    for path in OF_ONE_SESSION:
        if path.startswith(_SESSIONS):
            assert "session_id" in METHODS[path].input_type.fields_by_name


@pytest.mark.parametrize("path", OF_ONE_SESSION)
async def test_a_stranger_is_refused_on_every_verb(path: str, tmp_path: Path) -> None:
    """Another user's valid certificate opens nothing, warm or cold."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        for _ in ("cold", "warm"):
            call = call_in(net.front, path, "bob", session.session_id)
            assert (await error_of(call))[:2] == (
                grpc.StatusCode.PERMISSION_DENIED,
                "SESSION_NOT_YOURS",
            )
        assert not net.sandbox.entered.is_set()
        assert session.session_id in net.manager.sessions
        assert net.manager.asked["ExtendSession"] == 0
        assert net.manager.asked["DeleteSession"] == 0


@pytest.mark.parametrize("who", ["alice", "admin"])
@pytest.mark.parametrize("path", OF_ONE_SESSION)
async def test_the_owner_is_not_refused(path: str, who: str, tmp_path: Path) -> None:
    """The same calls of its owner, or of an administrator, pass."""
    async with mesh(tmp_path) as net:
        session = net.manager.add()
        call = call_in(net.front, path, who, session.session_id)
        assert (await error_of(call))[:2] == (grpc.StatusCode.OK, "")
