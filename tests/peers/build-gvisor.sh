#!/usr/bin/env bash
# Build gVisor's runsc for the isolation level `gvisor` into the cache, keyed by what it
# is made of, so that the second time is quick. Source: docs/how-to/real-servers.md
set -euo pipefail
cd "$(dirname "$0")/gvisor"
cache=${CUBEMESH_CACHE:-$HOME/.cache/cubemesh}
export GOFLAGS=-buildvcs=false GOTOOLCHAIN=local

if ! command -v go >/dev/null; then
  echo "error: runsc is built with Go, and there is none on PATH"
  echo "hint: install Go 1.26 or newer; without it the tests of gvisor are skipped"
  exit 1
fi

folder=$cache/runsc-$(cat go.mod go.sum | sha256sum | cut -c1-12)
if [ ! -x "$folder/runsc" ]; then
  echo "building runsc (once, about 2 minutes; the result stays in $folder)"
  mkdir -p "$folder"
  CGO_ENABLED=0 nice -n 5 go build -trimpath -ldflags "-s -w" -o "$folder/runsc.new" \
    gvisor.dev/gvisor/runsc
  mv "$folder/runsc.new" "$folder/runsc"
fi
mkdir -p "$cache/bin"
ln -sf "$folder/runsc" "$cache/bin/"
echo "gVisor is in $cache/bin: runsc"
