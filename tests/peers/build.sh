#!/usr/bin/env bash
# Build the real servers that tests talk to into the cache, keyed by what they are made
# of, so that the second time is quick. Source: docs/how-to/real-servers.md
set -euo pipefail
cd "$(dirname "$0")"
cache=${CUBEMESH_CACHE:-$HOME/.cache/cubemesh}
export GOFLAGS=-buildvcs=false GOTOOLCHAIN=local

# place NAME FILE…: the folder of NAME in the cache, named by the content of FILE…
place() {
  local name=$1
  shift
  echo "$cache/$name-$(cat "$@" | sha256sum | cut -c1-12)"
}

# build FOLDER CGO LDFLAGS PACKAGE PROGRAM: unless it is there already
build() {
  local target=$1/$5
  [ -x "$target" ] && return
  echo "building $5 (once; the result stays in $1)"
  mkdir -p "$1"
  CGO_ENABLED=$2 nice -n 5 go build -trimpath -ldflags "-s -w $3" -o "$target.new" "$4"
  mv "$target.new" "$target"
}

if ! command -v go >/dev/null; then
  echo "error: the real peers are built with Go, and there is none on PATH"
  echo "hint: install Go 1.26 or newer; without it their tests are skipped"
  exit 1
fi

spire=$(place spire-1.15.3 spire/go.mod spire/go.sum)
helper=$(place spiffe-helper-0.11.0 spiffe-helper/go.mod spiffe-helper/go.sum)
peer=$(place gopeer go/main.go go/go.mod go/go.sum)
x=github.com/spiffe/spire
(cd spire && for program in spire-agent spire-server; do
  build "$spire" 1 "-X $x/pkg/common/version.gittag=1.15.3" "$x/cmd/$program" "$program"
done)
(cd spiffe-helper && build "$helper" 0 "" github.com/spiffe/spiffe-helper/cmd/spiffe-helper spiffe-helper)
(cd go && build "$peer" 0 "" . gopeer)
mkdir -p "$cache/bin"
ln -sf "$spire"/spire-* "$helper/spiffe-helper" "$peer/gopeer" "$cache/bin/"
echo "peers are in $cache/bin: $(ls "$cache/bin" | tr '\n' ' ')"
