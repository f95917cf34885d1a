"""Rules about SPIFFE IDs: whom a door admits.

Three forms, told apart by their text alone:

* ``spiffe://td/a/b``    exactly this identity
* ``spiffe://td/user/``  every identity below ``/user/``, by whole segments
* ``spiffe://td/``       every identity of the trust domain
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, Self

from tlsloader._errors import InvalidMatcherError, InvalidSpiffeIDError
from tlsloader._spiffe import SpiffeID

__all__ = ["Allowlist", "Matcher", "parse_matcher"]


class Matcher(Protocol):
    """One rule about identities of one trust domain."""

    @property
    def trust_domain(self) -> str:
        """The only trust domain whose identities this rule can admit."""

    def admits(self, identity: SpiffeID, /) -> bool:
        """Say whether *identity* keeps the rule."""

    def __str__(self) -> str:
        """Return the text that `parse_matcher` makes this rule from."""


@dataclass(frozen=True, slots=True)
class _Exactly:
    identity: SpiffeID

    @property
    def trust_domain(self) -> str:
        return self.identity.trust_domain

    def admits(self, identity: SpiffeID, /) -> bool:
        return identity == self.identity

    def __str__(self) -> str:
        return str(self.identity)


@dataclass(frozen=True, slots=True)
class _Below:
    trust_domain: str
    prefix: str  # "/user/"; a lone "/" is the whole trust domain

    def admits(self, identity: SpiffeID, /) -> bool:
        if identity.trust_domain != self.trust_domain:
            return False
        return self.prefix == "/" or identity.path.startswith(self.prefix)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.prefix}"


def parse_matcher(text: str) -> Matcher:
    """Return the rule written in *text*; the module says in which forms.

    Raises:
        InvalidMatcherError: *text* is none of them.
    """
    try:
        identity = SpiffeID.parse(text.removesuffix("/"))
    except InvalidSpiffeIDError as error:
        raise InvalidMatcherError(text, error.reason, error.fault) from error
    if text.endswith("/"):
        return _Below(identity.trust_domain, f"{identity.path}/")
    if not identity.path:
        hint = f"an identity has a path; {text}/ means the whole trust domain"
        raise InvalidMatcherError(text, "no_path", hint)
    return _Exactly(identity)


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Admits whom any of its rules admits; without rules, nobody."""

    matchers: tuple[Matcher, ...] = ()
    trust_domains: frozenset[str] = field(init=False, repr=False, compare=False)
    # Asked at each call, so that long lists of single identities must not be slow
    _single: frozenset[SpiffeID] = field(init=False, repr=False, compare=False)
    _others: tuple[Matcher, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        single = [each.identity for each in self.matchers if isinstance(each, _Exactly)]
        others = [each for each in self.matchers if not isinstance(each, _Exactly)]
        domains = frozenset(matcher.trust_domain for matcher in self.matchers)
        object.__setattr__(self, "trust_domains", domains)
        object.__setattr__(self, "_single", frozenset(single))
        object.__setattr__(self, "_others", tuple(others))

    @classmethod
    def parse(cls, *texts: str) -> Self:
        """Return the list of the rules written in *texts*.

        Raises:
            InvalidMatcherError: one of *texts* is not a rule.
        """
        return cls(tuple(parse_matcher(text) for text in texts))

    def admits(self, identity: SpiffeID, /) -> bool:
        """Say whether some rule admits *identity*."""
        if self._single and identity in self._single:
            return True
        for matcher in self._others:  # noqa: SIM110 -- any() takes three times as long
            if matcher.admits(identity):
                return True
        return False

    def __str__(self) -> str:
        return ", ".join(map(str, self.matchers)) or "nobody"
