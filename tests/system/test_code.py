"""Code through the whole mesh, and the examples of the guides."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cubemesh import ContextNotFoundError, LanguageNotAvailableError, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.mesh import Up

pytestmark = pytest.mark.slow
GUIDES = Path(__file__).parents[2] / "docs" / "how-to"
EXAMPLES = [
    example
    for name in ("run-code.md", "files-and-secrets.md")
    for example in re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```",
        (GUIDES / name).read_text(),
        re.DOTALL,
    )
]


@pytest.fixture
def sandbox(mesh: Up) -> Iterator[Sandbox]:
    with Sandbox.create(profile=mesh.profile) as sandbox:
        yield sandbox


@pytest.mark.parametrize(("code", "shown"), EXAMPLES)
def test_examples_of_the_guides(mesh: Up, code: str, shown: str) -> None:
    """Each example of a guide prints what stands below it."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"CUBEMESH_PROFILE": str(mesh.profile)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == (shown, "")


def test_the_guides_have_examples() -> None:
    """A change of its form does not silence the test above."""
    assert len(EXAMPLES) == 6


def test_code_through_the_mesh(sandbox: Sandbox) -> None:
    """State, output as it comes, large results, several contexts: all the way."""
    heard: list[str] = []
    sandbox.run_code("x = 20", on_stdout=heard.append)
    ran = sandbox.run_code("print('one'); print('two'); x + 1", on_stdout=heard.append)
    assert (ran.text, "".join(heard)) == ("21", "one\ntwo\n")
    code = "class A:\n    def _repr_png_(self): return bytes(2_500_000)\nA()"
    assert sandbox.run_code(code).results[0].png == bytes(2_500_000)
    context = sandbox.contexts.create()
    assert sandbox.run_code("x", context=context).error is not None
    sandbox.contexts.delete(context)
    with pytest.raises(ContextNotFoundError):
        sandbox.run_code("x", context=context)
    with pytest.raises(LanguageNotAvailableError):
        sandbox.run_code("x", language="cobol")


def test_files_and_commands_meet_code(sandbox: Sandbox) -> None:
    """Code, commands and files share one workspace."""
    sandbox.files.write("data.csv", b"a,b\n1,2\n")
    assert sandbox.run_code("open('data.csv').read()").text == repr("a,b\n1,2\n")
    sandbox.run_code("open('out', 'w').write('done')")
    assert sandbox.commands.run("cat out").stdout == "done"
