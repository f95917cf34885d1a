"""One JSON line per event, whoever logged it, and never a secret."""

from __future__ import annotations

import io
import json
import logging
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from serving import bound, configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Log into memory, and give pytest its handlers back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_stdlib_record_is_a_flat_json_line(stream: io.StringIO) -> None:
    """Libraries log by stdlib; their extra fields are as good as ours."""
    configure_logging("picod", "info", stream)
    logging.getLogger("tlsloader").info("peer %s", "admitted", extra={"door": "data"})
    [line] = lines(stream)
    stamp = datetime.fromisoformat(line.pop("timestamp"))
    assert stamp.tzinfo == UTC
    assert line == {
        "event": "peer admitted",
        "level": "info",
        "logger": "tlsloader",
        "service": "picod",
        "door": "data",
    }


def test_ids_of_the_call_stand_in_every_line(stream: io.StringIO) -> None:
    """Who greps for a request id finds all of it, and nothing beside it."""
    configure_logging("router", "info", stream)
    with bound(request_id="r-1", session_id="ses-1"):
        logging.getLogger("a").warning("one")
        structlog.get_logger("b").warning("two")
    logging.getLogger("a").warning("three")
    ids = [(line.get("request_id"), line.get("session_id")) for line in lines(stream)]
    assert ids == [("r-1", "ses-1"), ("r-1", "ses-1"), (None, None)]


def test_the_level_silences_what_is_below(stream: io.StringIO) -> None:
    """``--log-level warning`` means it for every logger."""
    configure_logging("router", "warning", stream)
    logging.getLogger("a").info("x")
    structlog.get_logger("b").info("y")
    assert not stream.getvalue()


@pytest.mark.parametrize("secret", [JWT, PEM, f"Bearer {JWT}", "bearer abc.def"])
def test_hides_secrets_wherever_they_stand(stream: io.StringIO, secret: str) -> None:
    """Text, fields, nested fields, bytes and tracebacks are all searched."""
    configure_logging("router", "info", stream)
    log = logging.getLogger("a")
    log.info("got %s", secret)
    log.info("x", extra={"detail": secret, "deep": [{"er": (secret.encode(),)}]})
    log.error("failed", exc_info=ValueError(secret))
    text = stream.getvalue()
    assert text.count("[hidden]") >= 4
    for part in ("eyJ", "MIGH", "abc.def"):
        assert part not in text


@pytest.mark.parametrize("key", ["authorization", "token", "db_password", "x-secret"])
def test_hides_fields_named_like_secrets(stream: io.StringIO, key: str) -> None:
    """A field's name is enough to hide it, also inside another one."""
    configure_logging("router", "info", stream)
    logging.getLogger("a").info("x", extra={key: "12345", "inner": {key: "12345"}})
    assert "12345" not in stream.getvalue()


def test_a_line_is_one_line_whatever_it_holds(stream: io.StringIO) -> None:
    """Nobody can forge a second line, break the JSON, or fill the disk at once."""
    configure_logging("router", "info", stream)
    logging.getLogger("a").info(
        "a\n{}\x1b[31m", extra={"path": b"\xff\n", "odd": object(), "long": "x" * 10**6}
    )
    [line] = lines(stream)
    assert line["path"] == "\\xff\n"
    assert len(stream.getvalue()) < 20_000


def test_tracebacks_tell_no_local_values(stream: io.StringIO) -> None:
    """Locals may be anything; only code and message are shown."""
    configure_logging("router", "info", stream)
    local = "hunter" + str(2)
    try:
        int("boom")
    except ValueError:
        logging.getLogger("a").exception("failed")
    [line] = lines(stream)
    assert "boom" in line["exception"]
    assert local not in stream.getvalue()


def test_warnings_are_events(stream: io.StringIO) -> None:
    """What Python warns of lands in the log, not raw on standard error."""
    configure_logging("router", "info", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("careful", stacklevel=1)
    assert "careful" in lines(stream)[0]["event"]
