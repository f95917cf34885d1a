"""`cubemesh doctor certificates`: the services' own doctor, told our profile."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from cubemesh._errors import ConfigurationError
from cubemesh._machine import services
from cubemesh._profile import Profile, locate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SOURCES = ("--mtls-", "--spiffe-")
_TWINS = "CUBEMESH_DOCTOR_"
_AGENT = "SPIFFE_ENDPOINT_SOCKET"
_ELSE = "or say where the identity is: --mtls-cert-file and others, see --help"


def examine(
    name: str | None, flags: Sequence[str], environ: Mapping[str, str]
) -> NoReturn:
    """Become the services' doctor, with *flags* and what they leave to the profile.

    Raises:
        ConfigurationError: the services are not installed, or there is neither a
            profile nor a word about an identity.

    """
    if not (found := services()).ok:
        message = f"the services are not installed ({found.detail})"
        raise ConfigurationError(message, hint=found.hint)
    told = () if "--help" in flags else flags_of(name, flags, environ)
    # Isolated: no PYTHONPATH and no folder of the user's decides what runs.
    argv = [sys.executable, "-I", "-m", "serving.doctor", *told, *flags]
    os.execve(argv[0], argv, dict(environ))  # noqa: S606 - a list, no shell


def flags_of(
    name: str | None, flags: Sequence[str], environ: Mapping[str, str]
) -> Iterable[str]:
    """Return what the profile *name* adds to *flags*.

    That is nothing if they name an identity of their own, unless one asks for a
    profile: then it is its Router that is tried.
    """
    own = _tell(flags, environ, _SOURCES)
    if own and name is None:
        return ()
    try:
        profile = Profile.load(locate(name, environ))
    except ConfigurationError as error:
        if name is None and environ.get(_AGENT):
            return ()
        hint = f"{error.hint}, {_ELSE}" if error.hint else _ELSE
        raise ConfigurationError(str(error), hint=hint) from error
    return (*(() if own else _identity(profile)), *_router(profile, flags, environ))


def _tell(
    flags: Sequence[str], environ: Mapping[str, str], starts: tuple[str, ...]
) -> bool:
    """Say whether flags that start so are told, by themselves or by their twins."""
    twins = tuple(_TWINS + each[2:].upper().replace("-", "_") for each in starts)
    return any(flag.startswith(starts) for flag in flags) or any(
        variable.startswith(twins) for variable in environ
    )


def _identity(profile: Profile) -> Sequence[str]:
    return (
        *("--mtls-cert-file", profile.cert_file),
        *("--mtls-key-file", profile.key_file),
        *("--mtls-ca-file", profile.ca_file),
    )


def _router(
    profile: Profile, flags: Sequence[str], environ: Mapping[str, str]
) -> Sequence[str]:
    if _tell(flags, environ, ("--target",)):
        return ()
    return ("--target", profile.address, "--server-name", profile.server_name)
