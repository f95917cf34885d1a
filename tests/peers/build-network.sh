#!/usr/bin/env bash
# Install what carries and fences a sandbox's packets, for the tests marked `network`.
# Source: docs/how-to/real-servers.md
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

missing=()
for program in pasta:passt slirp4netns:slirp4netns nft:nftables; do
  command -v "${program%%:*}" >/dev/null || missing+=("${program##*:}")
done
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "error: missing for the tests of networks: ${missing[*]}"
  echo "hint: install these packages; without them their tests are skipped"
  exit 0
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
