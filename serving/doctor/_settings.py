"""What the doctor can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving._flags import ADDRESS, DURATION, MATCHER
from serving._identity import IdentityFlags
from serving._settings import flag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving._faults import Fault
    from tlsloader import Matcher

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(IdentityFlags):
    """Say in one sentence each what is well or wrong with an identity, and what to do.

    Looks at the identity as a service would load it, and with --target at the server:
    whether it proves who it is, and whether it takes us.
    """

    target: str | None = flag(
        "--target", ADDRESS, default=None, help="A server to try, as a service would"
    )
    expect: tuple[Matcher, ...] = flag(
        "--expect",
        MATCHER,
        multiple=True,
        help="Who the server has to be, such as spiffe://td/ns/x/sa/y; repeatable. "
        "Else anybody of our own trust domain",
    )
    server_name: str | None = flag(
        "--server-name",
        default=None,
        help="A DNS name that the server's certificate has to hold, as for the SDK",
    )
    timeout: float = flag(
        "--timeout", DURATION, default=10.0, help="How long all of it may take"
    )
    as_json: bool = flag(
        "--json", is_flag=True, default=False, help="Print one JSON object"
    )

    def faults(self) -> Iterator[Fault]:
        """Yield what fits not together."""
        yield from self.identity_faults()
        if self.target is None and (self.expect or self.server_name):
            yield (
                "--expect and --server-name are about a server",
                "name it by --target, or leave them out",
            )
        if not self.timeout:
            yield "--timeout: nothing is done in no time", "give it some seconds"
