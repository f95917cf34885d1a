"""``python -m cubemesh``, and the script ``cubemesh``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from cubemesh import _cli

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command that *argv* names and exit."""
    # gRPC tells of every connection that ends; here only errors are of interest.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    _cli.main(argv)


if __name__ == "__main__":
    main()
