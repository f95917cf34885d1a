"""Measure the mesh: `make bench`."""

import os

# gRPC would write on standard error that we start processes beside it; before it loads.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from benchmarks._run import bench

if __name__ == "__main__":
    raise SystemExit(bench())
