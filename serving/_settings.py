"""Flags as the fields of a dataclass, with environment twins; all faults at once.

@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    listen: str = flag("--listen", LISTEN, default="127.0.0.1:0", help="…")
    client_ids: tuple[Matcher, ...] = flag("--client-ids", MATCHER, multiple=True)
    trust_bundles: Mapping[str, Path] = flag("--trust-bundle", TRUST_BUNDLE,
                                             mapping=True)
    enable_mtls: bool = flag("--enable-mtls/--no-enable-mtls", default=True)

    def faults(self) -> Iterable[Fault]:      # optional: fields against fields
        if …: yield "error text", "hint text"

settings = parse(Settings, sys.argv[1:], os.environ, prog="router")
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serving._faults import EX_CONFIG, Fault, SettingsError, print_faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["flag", "name_of", "parse", "read", "retold"]

_KEY = "cubemesh-flag"
T = TypeVar("T")


def flag(
    name: str,
    kind: click.ParamType[Any] | None = None,
    *,
    help: str = "",  # noqa: A002
    multiple: bool = False,
    mapping: bool = False,
    **default: Any,
) -> Any:
    """Declare a flag as the field of a settings dataclass.

    *name* is ``--name``, or ``--name/--no-name`` for a boolean. Without
    ``default=`` the flag is required (a repeatable one is then empty).
    *multiple* gives a tuple; *mapping* gives a dict of the pairs its kind makes
    and refuses the same key twice. The environment twin is
    ``CUBEMESH_<SERVICE>_<NAME>``; several values there stand apart by commas.
    A flag wins over its twin. With ``also=(variable, flags)`` a variable that is
    known beyond CubeMesh comes after both, unless one of *flags* is set.
    """
    return dataclasses.field(
        metadata={
            _KEY: {
                "decls": name,
                "kind": kind,
                "help": help,
                "multiple": multiple or mapping,
                "mapping": mapping,
                **default,
            }
        }
    )


def name_of(field: dataclasses.Field[Any]) -> str:
    """Return how the flag that *field* declares is written, e.g. ``--listen``."""
    return str(field.metadata[_KEY]["decls"]).partition("/")[0]


def parse(
    settings: type[T], argv: Sequence[str], environ: Mapping[str, str], prog: str
) -> T:
    """Return the settings told by *argv* and *environ*, or end the process.

    ``--help`` prints and exits 0. Faults are printed to standard error, all of
    them, as ``error:`` and ``hint:`` lines; the exit status is then 78.
    """
    try:
        return read(settings, argv, environ, prog)
    except SettingsError as error:
        print_faults(error.faults, sys.stderr)
        raise SystemExit(EX_CONFIG) from None


def read(
    settings: type[T], argv: Sequence[str], environ: Mapping[str, str], prog: str
) -> T:
    """Return the settings told by *argv* and *environ*; see `parse`.

    Raises:
        SettingsError: names every fault.
        SystemExit: help was asked for and printed.
    """
    prefix = "CUBEMESH_" + prog.removeprefix("cubemesh-").upper().replace("-", "_")
    found = _Found(environ)
    options = [
        _Option.of(field, prefix, found)
        for field in dataclasses.fields(settings)  # type: ignore[arg-type]
        if _KEY in field.metadata
    ]
    values = _values(
        click.Command(prog, params=[*options], help=_doc(settings)), argv, found
    )
    _look_for_strangers(values.args, options, found)
    if not found.faults:
        told = settings(
            **{option.field: values.params[option.key] for option in options}
        )
        check = getattr(told, "faults", None)
        found.faults.extend(check() if check else ())
        if not found.faults:
            return told
    raise SettingsError(found.faults)


def retold(settings: T, flags: Mapping[str, str]) -> T:
    """Return *settings* with *flags*, by their names, told anew.

    For flags with one value each, which nothing else depends on; `faults` are not
    looked for again.

    Raises:
        KeyError: there is no such flag.
        click.BadParameter: the value is none.
    """
    fields = {
        field.metadata[_KEY]["decls"]: field
        for field in dataclasses.fields(settings)  # type: ignore[arg-type]
        if _KEY in field.metadata
    }
    told = {}
    for name, value in flags.items():
        field = fields[name]
        kind = field.metadata[_KEY]["kind"]
        told[field.name] = kind.convert(value, None, None)
    return dataclasses.replace(settings, **told)  # type: ignore[type-var]


@dataclasses.dataclass(slots=True)
class _Found:
    """What one reading works on: the environment, and the faults so far."""

    environ: Mapping[str, str]
    faults: list[Fault] = dataclasses.field(default_factory=list)


class _Option(click.Option):
    """An option that notes its fault and goes on, and is told its environment."""

    field: str
    key: str
    mapping: bool
    also: tuple[str, tuple[str, ...]]
    found: _Found

    @classmethod
    def of(cls, field: dataclasses.Field[Any], prefix: str, found: _Found) -> _Option:
        told = dict(field.metadata[_KEY])
        decls, kind = told.pop("decls"), told.pop("kind")
        mapping, also = told.pop("mapping"), told.pop("also", ("", ()))
        name = name_of(field).removeprefix("--")
        if told["multiple"]:
            told.setdefault("default", ())
        option = cls(
            [decls],
            type=kind,
            envvar=f"{prefix}_{name.upper().replace('-', '_')}",
            required="default" not in told,
            show_envvar=True,
            show_default=bool(told.get("default")) or "/" in decls,
            **told,
        )
        option.field, option.mapping, option.found = field.name, mapping, found
        option.also = also
        option.key = option.name or field.name
        return option

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        if own := self.found.environ.get(str(self.envvar)):
            return own
        name, unless = self.also
        told = (ctx.params.get(each.strip("-").replace("-", "_")) for each in unless)
        return None if any(told) else self.found.environ.get(name) or None

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        try:
            value = super().process_value(ctx, value)
            return self._pairs(value) if self.mapping else value
        except click.MissingParameter:
            self.found.faults.append(
                (f"{self.opts[0]} is not set", f"pass it, or set {self.envvar}")
            )
        except click.BadParameter as error:
            source = ctx.get_parameter_source(self.key)
            from_environ = source is click.core.ParameterSource.ENVIRONMENT
            variable = self.envvar
            if from_environ and not self.found.environ.get(str(self.envvar)):
                variable = self.also[0]
            name = variable if from_environ else self.opts[0]
            hint = self.help.splitlines()[0] if self.help else ""
            self.found.faults.append((f"{name}: {error.message.rstrip('.')}", hint))
        return None

    def _pairs(self, value: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        for key, one in value or ():
            if key in pairs:
                raise click.BadParameter(f"{key!r} is given twice")
            pairs[key] = one
        return pairs


def _values(
    command: click.Command, argv: Sequence[str], found: _Found
) -> click.Context:
    """Parse *argv*; what is malformed is left out and noted."""
    try:
        return command.make_context(
            command.name,
            list(argv),
            ignore_unknown_options=True,
            allow_extra_args=True,
            max_content_width=100,
        )
    except click.exceptions.Exit as error:
        raise SystemExit(error.exit_code) from None
    except click.UsageError as error:
        fault = error.format_message().rstrip(".").replace("Option ", "the flag ", 1)
        found.faults.append((fault, "see --help"))
        name = getattr(error, "option_name", "")
        rest = [arg for arg in argv if arg.partition("=")[0] != name]
        if len(rest) == len(argv):
            raise SettingsError(found.faults) from None
        return _values(command, rest, found)


def _look_for_strangers(
    args: Sequence[str], options: Sequence[_Option], found: _Found
) -> None:
    known = [
        each for option in options for each in (*option.opts, *option.secondary_opts)
    ]
    after_stranger = False
    for arg in args:
        if arg.startswith("-"):
            name = arg.partition("=")[0]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see --help"
            found.faults.append((f"there is no flag {name}", hint))
            after_stranger = "=" not in arg
        elif after_stranger:
            after_stranger = False
        else:
            found.faults.append((f"unexpected argument {arg!r}", "see --help"))


def _doc(settings: type[Any]) -> str:
    first = (settings.__doc__ or "").strip().partition("\n\n")[0]
    return (
        f"{first}\n\nEvery flag has an environment twin, shown beside it; the flag "
        "wins. Faults are reported all at once, with exit status 78."
    )
