#!/usr/bin/env bash
# Install the packages that code in sandboxes likes best, for the tests of tables and
# figures: for the sandbox's own Python, where every user may read them.
set -euo pipefail
cd "$(dirname "$0")"
python=/usr/bin/python3
wanted=(matplotlib==3.11.2 numpy==2.4.6 pandas==3.1.1)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
target=/var/tmp/cubemesh-packages-$version-$(echo "${wanted[@]}" | sha256sum | cut -c1-12)
if [ ! -d "$target" ]; then
  echo "installing ${wanted[*]} (once; the result stays in $target)"
  made=$(mktemp -d /var/tmp/cubemesh-packages.XXXXXX)
  ../../.venv/bin/python -m pip install --quiet --only-binary :all: \
    --python-version "$version" --target "$made" "${wanted[@]}"
  chmod -R a+rX "$made"
  mv "$made" "$target"
fi
ln -sfn "$target" /var/tmp/cubemesh-packages
