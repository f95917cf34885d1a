"""The command line: `make bench`, `cubemesh bench`."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console

from benchmarks._case import CASES, chosen
from benchmarks._compare import VERDICTS, compare
from benchmarks._e2b import E2B
from benchmarks._foreign import foreign_cases
from benchmarks._report import line, sheets, warnings
from benchmarks._results import Results, ResultsError
from benchmarks._run import measure
from benchmarks._servers import CubeMesh
from benchmarks.cases.create import AT_ONCE
from clock import SYSTEM
from cubemesh import Profile
from cubemesh._profile import locate
from serving import run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks._case import Case, Depth
    from benchmarks._results import Outcome

__all__ = ["bench"]

_RESULTS: Final = Path("benchmarks", "results")
_PAGE: Final = Path("docs", "benchmarks.md")
_MINUTES: Final = {"quick": 2.5, "standard": 9.0, "full": 60.0}
_WIDTH: Final = 200  # of a log: all columns of the widest table
_out = click.option(
    "--out", type=Path, default=_RESULTS, show_default=True, help="Where results go."
)


@click.group(invoke_without_command=True)
@click.option("--quick", "depth", flag_value="quick", help="About two minutes.")
@click.option("--full", "depth", flag_value="full", help="All there is; an hour.")
@click.option("--only", multiple=True, metavar="CASE", help="Name or pattern; again.")
@click.option("--minutes", type=float, help="Begin no case later; else as the depth.")
@click.option("--pictures/--no-pictures", default=True, help="Draw what was measured.")
@_out
@click.pass_context
def bench(  # noqa: PLR0913, PLR0917 - one per option
    context: click.Context,
    depth: Depth | None,
    only: tuple[str, ...],
    minutes: float | None,
    pictures: bool,  # noqa: FBT001
    out: Path,
) -> None:
    """Measure the mesh on this machine; about ten minutes.

    Starts meshes of its own. Prints figures beside targets, and writes every sample's
    histogram as JSON, and pictures.
    """
    if context.invoked_subcommand is not None:
        return
    depth = depth or "standard"
    cases = list(chosen(depth, only))
    if not cases:
        raise click.UsageError(f"no case is named so; `list` tells {len(CASES)} names")
    work = _work(cases, out, depth, minutes or _MINUTES[depth], pictures=pictures)
    raise SystemExit(run(work))


@bench.command("list")
def list_command() -> None:
    """Tell all cases, and the shortest run that includes each."""
    for each in CASES.values():
        click.echo(f"{each.name:44} {each.depth:9} {each.about}")


@bench.command("compare")
@click.argument("old", type=Path)
@click.argument("new", type=Path)
def compare_command(old: Path, new: Path) -> None:
    """Tell what changed between two results beyond noise, one line a case.

    In brackets: between which changes the true one lies, with 99 %. The exit status
    is 1 if anything got worse, 2 if there is nothing to compare.
    """
    found = list(compare(_read(old), _read(new)))
    if not found:
        raise click.UsageError("the two have no case in common")
    for each in found:
        click.echo(str(each))
    counts = Counter(each.verdict for each in found)
    click.echo(", ".join(f"{counts[each]} {each}" for each in VERDICTS))
    if counts["WORSE"]:
        raise SystemExit(1)


@bench.command("show")
@click.argument("file", type=Path)
@click.option("--markdown", is_flag=True, help="For a document.")
@click.option("--pictures", type=Path, help="Draw them into this folder.")
def show_command(file: Path, *, markdown: bool, pictures: Path | None) -> None:
    """Show results that were kept."""
    results, console = _read(file), _console()
    if markdown:
        click.echo("\n".join(sheet.markdown() for sheet in sheets(results)))
    else:
        _show(results, console)
    if pictures is not None:
        _draw(results, pictures, console)


@bench.command("document")
@click.argument("file", type=Path, required=False)
@click.option("--page", type=Path, default=_PAGE, show_default=True, help="Where.")
def document_command(file: Path | None, *, page: Path) -> None:
    """Put results that were kept, else the latest, into a page of the documentation.

    Between the comments `figures of one run` and `end of figures`; pictures go into
    the folder beside it that has its name.
    """
    from benchmarks._document import PlaceError, document  # noqa: PLC0415 - as for `_draw`

    file = file or max(_RESULTS.glob("[0-9]*.json"), default=None)
    if file is None:
        raise click.UsageError(f"there are no results in {_RESULTS}: run it first")
    try:
        document(_read(file), page, page.with_suffix(""))
    except (PlaceError, OSError) as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"{page}: figures of {file}")


def _read(file: Path) -> Results:
    try:
        return Results.read(file)
    except ResultsError as error:
        raise click.UsageError(str(error)) from error


@bench.group("foreign")
def foreign_group() -> None:
    """Drive a server that runs already: from create to the first result."""


_at_once = click.option(
    "--at-once",
    type=click.Choice(AT_ONCE),
    multiple=True,
    default=("serial", "8"),
    show_default=True,
    help="How many creates fall due together.",
)


@foreign_group.command("e2b")
@click.option("--api-url", required=True, help="Where sandboxes are made.")
@click.option("--sandbox-url", default="", help="Where all of them are reached.")
@click.option("--domain", default="e2b.app", help="Else: each below this domain.")
@click.option("--template", default="base", help="What they are made from.")
@click.option("--key", envvar="E2B_API_KEY", hidden=True, default="")
@_at_once
@_out
def e2b_command(  # noqa: PLR0913 - one per option
    *,
    api_url: str,
    sandbox_url: str,
    domain: str,
    template: str,
    key: str,
    at_once: tuple[str, ...],
    out: Path,
) -> None:
    """Drive a server that speaks E2B's protocol; its key is in E2B_API_KEY."""
    how = {"template": template, "sandbox_url": sandbox_url, "domain": domain}

    async def work() -> None:
        async with E2B.opened(api_url, key, **how) as server:
            await _work(foreign_cases(server, at_once), out)

    raise SystemExit(run(work()))


@foreign_group.command("cubemesh")
@click.option("--profile", help="Which mesh; else CUBEMESH_PROFILE, else default.")
@click.option("--template", default="", help="What sandboxes are made from.")
@_at_once
@_out
def cubemesh_command(
    *, profile: str | None, template: str, at_once: tuple[str, ...], out: Path
) -> None:
    """Drive a mesh by the SDK."""
    server = CubeMesh(Profile.load(locate(profile)), template)
    raise SystemExit(run(_work(foreign_cases(server, at_once), out)))


async def _work(
    cases: Iterable[Case],
    out: Path,
    depth: Depth = "standard",
    minutes: float = _MINUTES["full"],
    *,
    pictures: bool = True,
) -> None:
    """Measure, tell, and keep; fail if a case did."""
    console = _console()

    def tell(name: str, outcome: Outcome) -> None:
        console.print(
            line(name, outcome), markup=False, highlight=False, soft_wrap=True
        )

    results = await measure(cases, depth=depth, minutes=minutes, tell=tell)
    file = await asyncio.to_thread(_kept, results, out)
    _show(results, console)
    console.print(f"all figures: {file}", soft_wrap=True)
    if pictures:
        await asyncio.to_thread(_draw, results, file.with_suffix(""), console)
    if any(outcome.failed for outcome in results.cases.values()):
        raise SystemExit(1)


def _console() -> Console:
    """Return what prints as wide as the terminal; without one, at full width."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def _show(results: Results, console: Console) -> None:
    for sheet in sheets(results):
        console.print(sheet.table())
    for warning in warnings(results):
        console.print(warning, style="yellow", soft_wrap=True)


def _kept(results: Results, out: Path) -> Path:
    """Write *results* into the folder *out*; return the file."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{SYSTEM.now():%Y%m%dT%H%M%SZ}.json"
    results.write(file)
    return file


def _draw(results: Results, folder: Path, console: Console) -> None:
    # It takes longer to load than all the rest together
    from benchmarks._pictures import draw  # noqa: PLC0415

    for each in draw(results, folder):
        console.print(f"picture: {each}", soft_wrap=True)
