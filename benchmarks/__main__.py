"""Measure the mesh: `make bench`, `cubemesh bench`."""

import os

# gRPC would write on standard error that we start processes beside it; before it loads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from benchmarks import cases  # noqa: F401 -- they make themselves known
from benchmarks._cli import bench

if __name__ == "__main__":
    bench(prog_name="cubemesh bench")
