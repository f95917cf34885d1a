from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.fakes import running
from workloadmanager._errors import TemplateFileError, TemplateNotFoundError
from workloadmanager._needs import missing
from workloadmanager._templatefile import parse_templates
from workloadmanager._templates import PYTHON, Templates
from workloadmanager._templatesource import TemplateSource

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes import FakeClock

GOOD = b"""
templates:
  tiny:
    description: for small things
    isolation: none
    python: /opt/python/bin/python3
    lifetime: 90s
    maximum_lifetime: 1h
    idle_timeout: 1m30s
    limits: {memory: 64MiB, processes: 8, timeout: 1.5s, workspace: 4096}
    environment: {MODE: quick, EMPTY: ""}
    imports: [numpy, xml.dom]
    min_ready: 0
    max_ready: 3
"""
MORE = b"  large: {}"


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(TemplateFileError) as caught:
        parse_templates(text.encode(), "t.yaml")
    return caught.value.faults


def test_a_file_says_everything_about_a_template() -> None:
    """Every field arrives, in seconds and bytes."""
    tiny = parse_templates(GOOD, "t.yaml").find("tiny")
    assert tiny.isolation == "none"
    assert tiny.python == "/opt/python/bin/python3"
    assert tiny.default_lifetime == timedelta(seconds=90)
    assert tiny.maximum_lifetime == timedelta(hours=1)
    assert tiny.idle_timeout == timedelta(seconds=90)
    assert tiny.limits == {
        "memory": 64 << 20,
        "processes": 8,
        "timeout": 1.5,
        "workspace": 4096,
    }
    assert tiny.environment == {"MODE": "quick", "EMPTY": ""}
    assert tiny.imports == ("numpy", "xml.dom")
    assert (tiny.min_ready, tiny.max_ready) == (0, 3)


def test_python_is_built_in_and_can_be_replaced() -> None:
    """A fresh mesh has a template; an operator's own of that name wins."""
    assert Templates().find("python") is PYTHON
    ours = parse_templates(b"templates: {python: {description: ours}}", "t.yaml")
    assert ours.find("python").description == "ours"
    assert [each.name for each in parse_templates(GOOD, "t.yaml")] == ["python", "tiny"]


def test_an_unknown_template_is_named_in_the_error() -> None:
    """The caller learns which name was wrong."""
    with pytest.raises(TemplateNotFoundError) as caught:
        Templates().find("nope")
    assert caught.value.metadata == {"template": "nope"}


def test_all_faults_are_told_at_once_with_their_lines() -> None:
    """An operator mends a file in one round."""
    found = faults(
        """
templates:
  Bad_Name: {}
  a:
    isolation: chroot
    python: bin/python
    idle_timeout: soon
    limits: {memory: lots, colour: red, processes: 0, timeout: 0s}
    environment: {"A=B": x, C: [1]}
    surprise: 1
  b: []
  c: {lifetime: 2h, maximum_lifetime: 1h}
  d: {min_ready: 3, max_ready: 2}
  e: {min_ready: -1}
"""
    )
    told = "\n".join(found)
    for place in (
        "t.yaml:3: Bad_Name",
        "t.yaml:5: a.isolation: 'chroot'",
        "t.yaml:6: a.python: 'bin/python' is not an absolute path",
        "t.yaml:7: a.idle_timeout: 'soon'",
        "t.yaml:8: a.limits.memory: 'lots'",
        "t.yaml:8: a.limits: 'colour' is unknown",
        "t.yaml:8: a.limits.processes",
        "t.yaml:8: a.limits.timeout: 0 is out of range",
        "t.yaml:9: a.environment: 'A=B'",
        "t.yaml:9: a.environment.C: must be a text",
        "t.yaml:10: a: 'surprise' is unknown",
        "t.yaml:11: b: must be a mapping",
        "t.yaml:12: c: lifetime is more than maximum_lifetime",
        "t.yaml:13: d: min_ready is more than max_ready",
        "t.yaml:14: e.min_ready",
    ):
        assert place in told
    assert len(found) == 15


@pytest.mark.parametrize(
    ("imports", "said"),
    [
        ("numpy", "a.imports: must be a list of modules"),
        ("[json, 'os; x']", "a.imports: 'os; x' is no name of a module"),
        ("[json, json]", "a.imports: 'json' stands twice"),
        ("[[json]]", "a.imports: must be a text"),
        (str([f"m{n}" for n in range(65)]), "a.imports: has more than 64 modules"),
    ],
)
def test_imports_are_names_of_modules(imports: str, said: str) -> None:
    """What could not be imported anywhere is a fault of the file."""
    assert said in faults(f"templates: {{a: {{imports: {imports}}}}}")[0]


def test_a_key_that_stands_twice_is_a_fault() -> None:
    """YAML would silently take the last one."""
    assert "stands twice" in faults("templates: {a: {}, a: {}}")[0]


@pytest.mark.parametrize(
    "text", ["a: [", "\x00", "- 1", "!!python/object:os.system {}", "templates: 3"]
)
def test_what_is_no_template_file_is_refused(text: str) -> None:
    """Broken YAML, tags that run code, and other documents end in a fault."""
    assert faults(text)


def test_a_shorter_maximum_shortens_the_default() -> None:
    """Saying only the maximum is enough."""
    templates = parse_templates(b"templates: {a: {maximum_lifetime: 5m}}", "t.yaml")
    assert templates.find("a").default_lifetime == timedelta(minutes=5)


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    """Missing, a folder, or absurdly large: said, not raised as it comes."""
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (2 << 20))
    for path in (tmp_path / "none.yaml", tmp_path, large):
        with pytest.raises(TemplateFileError, match=str(path)):
            TemplateSource.load(path)
    assert TemplateSource.load(None).templates.find("python")


def test_what_does_not_go_together_is_refused() -> None:
    """No network beside gvisor, and no more room for files than there is memory."""
    text = """
templates:
  one: {isolation: gvisor, allow_network: true}
  two: {limits: {memory: 1GiB, workspace: 800MiB, scratch: 300MiB}}
  three: {limits: {scratch: 2GiB}}
  four: {allow_network: sometimes}
  five: {allow_network: yes, limits: {memory: 3GiB, workspace: 2GiB, inodes: 10}}
"""
    found = faults(text)
    assert [fault.partition(": ")[2].partition(":")[0] for fault in found] == [
        "one",
        "two",
        "three",
        "four.allow_network",
    ]


def test_programs_that_are_missing_are_told() -> None:
    """A template that could not start here is told at once, with a remedy."""
    text = (
        b"templates: {far: {allow_network: true}, deep: {isolation: gvisor}, all: {}}"
    )
    templates = parse_templates(text, "t.yaml")
    told = dict(missing(templates, "bwrap", "/nowhere"))
    names = {fault.split()[1].rstrip(":") for fault in told}
    assert "deep" in names
    assert names <= {"deep", "far"}
    assert any("runsc" in fault for fault in told)
    assert not dict(missing([PYTHON], "bwrap", "/nowhere"))
    assert "bwrap" in dict(missing([PYTHON], "gvisor", "/nowhere")).popitem()[1]


async def test_a_file_that_changes_is_followed(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A good change holds from then on; a bad one, or no file, changes nothing."""
    caplog.set_level("INFO")
    path = tmp_path / "t.yaml"
    path.write_bytes(GOOD)
    source = TemplateSource.load(path)
    found = source.templates

    async def look() -> None:
        await clock.advance(5)
        await clock.advance(0)  # returns once that look is over

    def lacking(templates: Templates) -> list[tuple[str, str]]:
        return [("it needs a program", "")] if len([*templates]) > 2 else []

    bads = (b"templates: 1", b"templates: {tiny: {min_ready: x}}", GOOD + MORE, None)
    async with running(source.follow(lacking, clock=clock)):
        for bad in bads:
            path.write_bytes(bad) if bad else path.unlink()
            for _ in range(2):
                await look()
                assert found.find("tiny").limits["processes"] == 8
        path.write_bytes(GOOD.replace(b"processes: 8", b"processes: 9"))
        await look()
        assert found.find("tiny").limits["processes"] == 9
    assert [each.message for each in caplog.records] == [
        *4 * ["templates kept"],
        "templates changed",
    ]
