"""Everything that one identity is made of, as it was at one look."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from tlsloader._errors import InvalidSpiffeIDError, MaterialError
from tlsloader._files import Text, looked
from tlsloader._spiffe import parse_trust_domain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tlsloader._files import Look

__all__ = ["BundlePaths", "Found", "Paths", "Snapshot"]

_SUFFIX: Final = ".pem"

Found = Text | MaterialError
"""What a bundle's file held, or why that cannot be said."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The PEM files of one identity.

    ``key`` and ``chain`` may be the same file, a *credential bundle*. ``bundle`` may
    be the folder of `BundlePaths`: then our own trust domain's is among the others.

    Source: SPIFFE filesystem delivery (draft), credential bundles.
    """

    key: Path
    chain: Path
    bundle: Path


@dataclass(frozen=True, slots=True)
class BundlePaths:
    """Where the bundles of trust domains are: one file for each, never merged.

    ``files`` are named one by one. In ``folder`` each is ``<trust domain>.pem``; who
    adds a file there trusts that domain, who removes it does so no more.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None

    def read(self, look: Look, *, complete: bool = False) -> dict[str, Found]:
        """Return what there is of each trust domain; blocks on file I/O.

        What cannot be had for one domain stands in its place and harms no other.
        A file that is missing is a bundle that was withdrawn, unless all of
        ``files`` must be there and readable: *complete*.

        Raises:
            MaterialError: the folder cannot be listed, or that is not complete.
        """
        found = dict(self._named(look, complete=complete))
        if self.folder is not None:
            for name in look.names(self.folder):
                domain, bundle = self._placed(look, self.folder / name)
                if bundle is not None:
                    found[domain] = bundle
        return found

    def _named(self, look: Look, *, complete: bool) -> Iterator[tuple[str, Found]]:
        for domain, path in self.files.items():
            text = look.required(path) if complete else _found(look, path)
            if text is not None:
                yield domain, text

    def _placed(self, look: Look, path: Path) -> tuple[str, Found | None]:
        """Return what *path* in our folder is; a fault of its name under that name."""
        try:
            domain = parse_trust_domain(path.name.removesuffix(_SUFFIX))
            fault = "" if path.suffix == _SUFFIX else f"it does not end in {_SUFFIX}"
        except InvalidSpiffeIDError as error:
            fault = error.fault
        if fault:
            text = (
                f"{path} belongs to no trust domain ({fault}); "
                f"name it <trust domain>{_SUFFIX}, or move it elsewhere"
            )
            return str(path), MaterialError("bad_bundle_name", text)
        if domain in self.files:
            text = f"{path} is a second bundle of {domain}; drop it or --trust-bundle"
            return str(path), MaterialError("domain_twice", text)
        return domain, _found(look, path)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All files of one identity as they were at one look.

    ``bundle`` is of our own trust domain; without it, that is among the others.
    ``identity`` is whom all of it is said to make, if anybody says so.
    """

    key: Text = field(repr=False)
    chain: Text
    bundle: Text | None
    others: Mapping[str, Found]
    identity: str | None = None

    @classmethod
    def read(
        cls, paths: Paths, bundles: BundlePaths, *, complete: bool = False
    ) -> Self:
        """Read them all; blocks on file I/O.

        Args:
            paths: our own key, chain and bundle.
            bundles: those of other trust domains.
            complete: whether each bundle that is named must be there.

        Raises:
            MaterialError: a file of ours is missing, unreadable or no ordinary file,
                or `BundlePaths.read` raises it.
        """
        return looked(partial(cls._found, paths, bundles, complete=complete))

    @classmethod
    def _found(
        cls, paths: Paths, bundles: BundlePaths, look: Look, *, complete: bool
    ) -> Self:
        key = look.required(paths.key)
        chain = key if paths.chain == paths.key else look.required(paths.chain)
        apart = paths.bundle != bundles.folder
        bundle = look.required(paths.bundle) if apart else None
        return cls(key, chain, bundle, bundles.read(look, complete=complete))

    @property
    def digest(self) -> bytes:
        """A hash over the content of every file, to see whether any changed."""
        whole = hashlib.sha256()
        own = (self.key, self.chain, *([self.bundle] if self.bundle else ()))
        for text in own:
            _add(whole, text.name, text.data)
        for domain in sorted(self.others):
            found = self.others[domain]
            data = found.data if isinstance(found, Text) else str(found).encode()
            _add(whole, domain, data)
        return whole.digest()


def _add(whole: hashlib._Hash, name: str, data: bytes) -> None:
    whole.update(f"{name}\0{len(data)}\0".encode())
    whole.update(data)


def _found(look: Look, path: Path) -> Found | None:
    try:
        return look.read(path)
    except MaterialError as error:
        return error
