"""The door for Prometheus: plain HTTP, for its own machine unless told otherwise."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from serving._faults import ListenError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving._metrics import Metrics

__all__ = ["start_metrics"]

_LOOK_FOR_END = 0.1


@contextmanager
def start_metrics(listen: str, metrics: Metrics) -> Iterator[str]:
    """Serve *metrics* over HTTP on *listen* (``host:port``, port 0 for any free one).

    Yields the address, with its real port. Threads of their own answer, so that a
    slow reader never holds up calls.

    Raises:
        ListenError: the address cannot be bound.
    """
    host, _, port = listen.rpartition(":")
    app = make_wsgi_app(metrics.registry)
    kind = _V6Server if host.startswith("[") else _Server
    try:
        server = make_server(host.strip("[]"), int(port), app, kind, _Quiet)
    except OSError as error:
        raise ListenError(listen, error) from error
    thread = threading.Thread(target=server.serve_forever, args=(_LOOK_FOR_END,))
    thread.start()
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False


class _V6Server(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 10  # who connects and says nothing is not kept

    def log_message(self, *args: Any) -> None:
        """Say nothing: a scrape is no event."""
