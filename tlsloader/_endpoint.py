"""Where a Workload API is.

Source: SPIFFE Workload Endpoint, section 4.
"""

from __future__ import annotations

import re
from typing import Final

from tlsloader._address import LONGEST_PATH

__all__ = ["parse_endpoint"]

_UNIX: Final = re.compile(r"unix:(?://)?(/(?!/)[^\0%?#]+)")


def parse_endpoint(text: str) -> str:
    """Return what ``unix:///path`` names, as the target of a gRPC channel.

    TCP is refused although the standard allows it: only behind a Unix socket can an
    agent know whom it gives an identity to.

    Raises:
        ValueError: *text* is something else, or too long for a socket.
    """
    found = _UNIX.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not unix:///path, the socket of a SPIFFE agent")
    if len(found[1].encode()) > LONGEST_PATH:
        raise ValueError(f"the socket {text!r} has more than {LONGEST_PATH} bytes")
    return f"unix:{found[1]}"
