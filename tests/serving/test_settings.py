"""Flags, their environment twins, and all faults at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import serving
from serving import SettingsError, flag, parse, read, retold
from tlsloader import SpiffeID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from serving import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Try every form a flag can have."""

    listen: str = flag("--listen", serving.LISTEN, help="Where to listen.")
    timeout: float = flag("--timeout", serving.DURATION, default="5s")
    ids: tuple[Any, ...] = flag("--client-ids", serving.MATCHER, multiple=True)
    bundles: Mapping[str, Path] = flag(
        "--trust-bundle", serving.TRUST_BUNDLE, mapping=True
    )
    mtls: bool = flag("--enable-mtls/--no-enable-mtls", default=True)
    file: Path | None = flag("--file", serving.FILE, default=None)

    def faults(self) -> Iterable[Fault]:
        """Refuse a timeout without mTLS."""
        if not self.mtls and self.timeout > 60:
            yield "--timeout is too long without mTLS", "pass --timeout 60s or less"


def settings(*argv: str, **environ: str) -> Settings:
    twins = {f"CUBEMESH_ROUTER_{name}": value for name, value in environ.items()}
    return read(Settings, argv, twins, prog="cubemesh-router")


def faults(*argv: str, **environ: str) -> list[Fault]:
    with pytest.raises(SettingsError) as caught:
        settings(*argv, **environ)
    return list(caught.value.faults)


def test_reads_flags_and_leaves_the_rest_at_their_defaults() -> None:
    """What is not told has its default, converted like a told value."""
    assert settings("--listen", "[::1]:0") == Settings(
        listen="[::1]:0", timeout=5.0, ids=(), bundles={}, mtls=True, file=None
    )


def test_reads_the_environment_twins() -> None:
    """Every form of flag can be told by its twin, several values with commas."""
    told = settings(
        LISTEN="unix:/run/x.sock",
        TIMEOUT="1m",
        CLIENT_IDS="spiffe://a/user/, spiffe://b/c",
        TRUST_BUNDLE="a=/x.pem,b=/y.pem",
        ENABLE_MTLS="no",
        FILE=__file__,
    )
    assert (told.listen, told.timeout, told.mtls) == ("unix:/run/x.sock", 60.0, False)
    assert [str(each) for each in told.ids] == ["spiffe://a/user/", "spiffe://b/c"]
    assert told.bundles == {"a": Path("/x.pem"), "b": Path("/y.pem")}


def test_a_flag_wins_over_its_twin() -> None:
    """What stands on the command line was typed later than the environment."""
    assert settings("--listen", "a:1", LISTEN="b:2").listen == "a:1"
    assert settings("--listen", "a:1", "--enable-mtls", ENABLE_MTLS="no").mtls


def test_an_empty_twin_counts_as_unset() -> None:
    """Compose files and unit files leave variables empty, meaning "not told"."""
    assert settings("--listen", "a:1", TIMEOUT="").timeout == 5.0


def test_tells_all_faults_at_once() -> None:
    """Nobody has to start a service five times to learn five things."""
    found = faults(
        "--timeout", "soon",
        "--client-ids", "http://x",
        "--trust-bundle", "a=/x", "--trust-bundle", "a=/y",
        "--clientids", "spiffe://a/",
        "stray",
        "--file", "/nowhere",
        ENABLE_MTLS="perhaps",
    )  # fmt: skip
    texts = [text for text, _ in found]
    assert {
        "--timeout: 'soon' is not a duration such as 250ms, 5s, 1h30m",
        "--trust-bundle: 'a' is given twice",
        "--file: '/nowhere' is not an existing file",
        "--listen is not set",
        "there is no flag --clientids",
        "unexpected argument 'stray'",
    } < set(texts)
    assert any(text.startswith("CUBEMESH_ROUTER_ENABLE_MTLS: ") for text in texts)
    assert any(text.startswith("--client-ids: ") for text in texts)
    assert len(texts) == 8


def test_hints_say_what_to_do() -> None:
    """A missing flag names its twin, a misspelt one its neighbour."""
    found = dict(faults("--lisn", "x"))
    assert found["--listen is not set"] == "pass it, or set CUBEMESH_ROUTER_LISTEN"
    assert found["there is no flag --lisn"] == "did you mean --listen?"


def test_malformed_use_of_a_flag_hides_no_other_fault() -> None:
    """A flag without its value, or a switch with one, is one fault among others."""
    texts = [
        text for text, _ in faults("--enable-mtls=3", "--timeout", "x", "--listen")
    ]
    assert len(texts) == 4
    assert "--listen is not set" in texts


def test_looks_at_fields_together_only_when_each_is_sound() -> None:
    """A cross-check never sees half-read settings, and its faults count too."""
    assert faults("--listen", "a:1", "--no-enable-mtls", "--timeout", "2m") == [
        ("--timeout is too long without mTLS", "pass --timeout 60s or less")
    ]


def test_prints_faults_and_exits_78(capsys: pytest.CaptureFixture[str]) -> None:
    """Supervisors see the sysexits status, people see error and hint."""
    with pytest.raises(SystemExit) as caught:
        parse(Settings, ["--listen", "nowhere"], {}, prog="router")
    assert caught.value.code == 78
    assert capsys.readouterr().err.splitlines() == [
        "error: --listen: 'nowhere' is not host:port, [v6]:port or unix:/path",
        "hint: Where to listen.",
    ]


def test_help_shows_every_flag_with_its_twin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``--help`` works without any required flag and tells the variables."""
    with pytest.raises(SystemExit) as caught:
        parse(Settings, ["--help"], {}, prog="router")
    assert not caught.value.code
    text = capsys.readouterr().out
    assert "CUBEMESH_ROUTER_TRUST_BUNDLE" in text
    assert "Try every form a flag can have." in text


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (serving.DURATION, "250ms", 0.25),
        (serving.DURATION, "1h30m", 5400.0),
        (serving.DURATION, "0s", 0.0),
        (serving.SIZE, "64KiB", 65536),
        (serving.SIZE, "1GiB", 1 << 30),
        (serving.SIZE, "7", 7),
        (serving.COUNT, "12", 12),
        (serving.NUMBER, "0", 0),
        (serving.LISTEN, "127.0.0.1:0", "127.0.0.1:0"),
        (serving.ADDRESS, "unix:/x", "unix:/x"),
        (serving.PAIR, "a=b=c", ("a", "b=c")),
        (serving.ID_RANGE, "100000-100999", (100000, 100999)),
        (serving.SPIFFE_ID, "spiffe://a/b", SpiffeID("a", "/b")),
        (serving.TRUST_DOMAIN, "cluster.local", "cluster.local"),
        (serving.PATH, "/x/y", Path("/x/y")),
    ],
)
def test_kinds_take(kind: click.ParamType[Any], text: str, value: object) -> None:
    """Each kind turns its text into the documented value."""
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (serving.DURATION, "5"),
        (serving.DURATION, "-5s"),
        (serving.DURATION, "5s "),
        (serving.DURATION, "\u0665s"),
        (serving.DURATION, ""),
        (serving.SIZE, "1GB"),
        (serving.SIZE, "-1"),
        (serving.COUNT, "0"),
        (serving.NUMBER, "-1"),
        (serving.COUNT, "1e3"),
        (serving.LISTEN, "localhost"),
        (serving.LISTEN, "localhost:65536"),
        (serving.LISTEN, "unix:x"),
        (serving.LISTEN, "unix:/" + "x" * 107),
        (serving.LISTEN, "a b:1"),
        (serving.ADDRESS, "localhost:0"),
        (serving.PAIR, "a="),
        (serving.ID_RANGE, "5-4"),
        (serving.ID_RANGE, "0-4"),
        (serving.ID_RANGE, "1-4294967295"),
        (serving.SPIFFE_ID, "https://a/b"),
        (serving.MATCHER, "spiffe:///"),
        (serving.TRUST_DOMAIN, "a/b"),
        (serving.TRUST_DOMAIN, "A"),
        (serving.TRUST_BUNDLE, "a"),
        (serving.TRUST_BUNDLE, "=/x"),
        (serving.PATH, "a\0b"),
        (serving.FILE, "/"),
        (serving.FOLDER, __file__),
    ],
)
def test_kinds_refuse(kind: click.ParamType[Any], text: str) -> None:
    """Each kind says what is wrong instead of guessing."""
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)


@pytest.mark.slow
@given(st.sampled_from(sorted(serving.__all__)), st.text(max_size=30))
def test_no_text_breaks_a_kind(name: str, text: str) -> None:
    """Whatever somebody types, the answer is a value or a fault."""
    kind = getattr(serving, name)
    if isinstance(kind, serving.FlagType):
        try:
            kind.convert(text, None, None)
        except click.BadParameter as fault:
            assert fault.message  # noqa: PT017 - no fault is fine as well


def test_single_flags_can_be_told_anew() -> None:
    """Settings that many share but for a few values are read once."""
    known = settings("--listen", "127.0.0.1:1", "--timeout", "9s")
    other = retold(known, {"--listen": "unix:/s", "--timeout": "250ms"})
    assert (other.listen, other.timeout, other.mtls) == ("unix:/s", 0.25, True)
    assert (known.listen, known.timeout) == ("127.0.0.1:1", 9)
    with pytest.raises(click.BadParameter):
        retold(known, {"--listen": "nowhere"})
    with pytest.raises(KeyError):
        retold(known, {"--colour": "red"})
