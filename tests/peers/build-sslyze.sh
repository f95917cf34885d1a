#!/usr/bin/env bash
# Install the scanner of TLS servers for the tests marked `scan`, apart from our own
# packages: it is held to an older cryptography. To renew the pins:
# uv pip compile --universal --generate-hashes --no-annotate --no-header \
#   --python-version 3.11 --output-file requirements.lock requirements.in
set -euo pipefail
cd "$(dirname "$0")/sslyze"
cache=${CUBEMESH_CACHE:-$HOME/.cache/cubemesh}
python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
target=$cache/sslyze-$version-$(sha256sum <requirements.lock | cut -c1-12)
if [ ! -x "$target/bin/sslyze" ]; then
  echo "installing $(cat requirements.in) (once; the result stays in $target)"
  "$python" -m venv --clear "$target"
  "$target/bin/python" -m pip install --quiet \
    --require-hashes --requirement requirements.lock
fi
mkdir -p "$cache/bin"
ln -sf "$target/bin/sslyze" "$cache/bin/"
