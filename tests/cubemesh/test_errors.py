from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

import cubemesh
from cubemesh import (
    CubeMeshError,
    InternalError,
    MeshError,
    SessionExpiredError,
    _errors,
)
from cubemesh._calls import to_error
from cubemesh._errors import BY_CODE, BY_REASON, OverloadedError

_REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


def _trailing(*details: ErrorInfo | RetryInfo) -> tuple[tuple[str, bytes], ...]:
    status = Status()
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def test_every_reason_of_the_reference_has_a_class() -> None:
    """A reason that the mesh knows and we do not cannot be released."""
    text = _REFERENCE.read_text(encoding="utf-8")
    reasons = set(re.findall(r"^\|\s*`([A-Z][A-Z_]+)`", text, re.MULTILINE))
    assert reasons == set(BY_REASON)


def test_every_code_but_those_nobody_sends_has_a_class() -> None:
    """Answers without a reason of ours still get a class by their status."""
    names = {code.name for code in grpc.StatusCode}
    assert names - set(BY_CODE) == {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "OUT_OF_RANGE",
        "DATA_LOSS",
    }


def test_the_tree_is_the_one_drawn() -> None:
    """The drawing on top of the module is the truth."""
    assert _errors.__doc__ is not None
    drawn: list[tuple[str, str]] = []
    above: list[str] = []
    for line in _errors.__doc__.splitlines():
        found = re.search(r"(\w+Error)", line)
        if found is None:
            continue
        depth = found.start() // 4 - 1
        above[depth:] = [found[1]]
        if depth:
            drawn.append((found[1], above[depth - 1]))
    classes = [
        each
        for each in vars(_errors).values()
        if isinstance(each, type) and issubclass(each, CubeMeshError)
    ]
    real = [(c.__name__, c.__bases__[0].__name__) for c in classes]
    assert sorted(drawn) == sorted(pair for pair in real if pair[1] != "Exception")
    assert {each.__name__ for each in classes} <= set(cubemesh.__all__)


def test_reason_metadata_and_delay_arrive() -> None:
    """All that the mesh tells beside the text is kept."""
    info = ErrorInfo(domain="cubemesh", reason="SERVER_OVERLOADED", metadata={"a": "b"})
    retry = RetryInfo(retry_delay=Duration(seconds=2))
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    error = to_error(code, "full", _trailing(info, retry))
    assert type(error) is OverloadedError
    assert (error.reason, error.metadata) == ("SERVER_OVERLOADED", {"a": "b"})
    assert (error.retry_after, str(error)) == (2.0, "full")


@pytest.mark.parametrize(
    ("trailing", "expected"),
    [
        ((), MeshError),
        ((("grpc-status-details-bin", b"\xff\xff"),), MeshError),
        (_trailing(ErrorInfo(domain="other", reason="SESSION_EXPIRED")), MeshError),
        (_trailing(ErrorInfo(domain="cubemesh", reason="NEW")), MeshError),
        (
            _trailing(ErrorInfo(domain="cubemesh", reason="SESSION_EXPIRED")),
            SessionExpiredError,
        ),
    ],
)
def test_what_is_not_ours_falls_back(
    trailing: tuple[tuple[str, bytes], ...], expected: type
) -> None:
    """Garbage, foreign domains and newer reasons still become an error of ours."""
    assert type(to_error(grpc.StatusCode.UNKNOWN, "x", trailing)) is expected
    assert isinstance(to_error(grpc.StatusCode.INTERNAL, "x"), InternalError)


def test_importing_is_cheap() -> None:
    """`import cubemesh` loads neither gRPC nor protobuf."""
    code = "import cubemesh, sys; print({'grpc', 'google.protobuf'} & set(sys.modules))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert said.stdout == "set()\n"


def test_public_names() -> None:
    """What users import is pinned: sorted, loadable, and each in one known room."""
    assert cubemesh.__all__ == sorted(cubemesh.__all__)
    for name in cubemesh.__all__:
        assert getattr(cubemesh, name) is not None
        assert name in dir(cubemesh)
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = cubemesh.nope  # type: ignore[attr-defined]
    assert cubemesh.__all__ == [
        "AsyncCommands",
        "AsyncContexts",
        "AsyncFiles",
        "AsyncSandbox",
        "CommandEvent",
        "CommandExited",
        "CommandFailedError",
        "CommandNotFoundError",
        "CommandOutput",
        "CommandResult",
        "CommandStarted",
        "Commands",
        "ConfigurationError",
        "ConflictError",
        "ContextInfo",
        "ContextNotFoundError",
        "Contexts",
        "CubeMeshError",
        "DeadlineExceededError",
        "Execution",
        "ExecutionError",
        "ExhaustedError",
        "FileInfo",
        "Files",
        "ImportInfo",
        "InternalError",
        "InvalidPathError",
        "InvalidRequestError",
        "LanguageNotAvailableError",
        "Logs",
        "MeshError",
        "NotFoundError",
        "OverloadedError",
        "PermissionDeniedError",
        "Profile",
        "Result",
        "Sandbox",
        "SandboxFileExistsError",
        "SandboxFileNotFoundError",
        "SessionExpiredError",
        "SessionInfo",
        "SessionNotFoundError",
        "TemplateNotFoundError",
        "TransferError",
        "UnauthenticatedError",
        "UnavailableError",
        "UnsupportedError",
    ]
