#!/bin/sh
# Install the Debian packages that some tests use: a Prometheus, a browser, shells, systemd's
# tools. Without them these tests are skipped, and say which one they miss.
set -eu
packages="chromium fish prometheus systemd zsh"
missing=""
for each in $packages; do
	dpkg-query --show --showformat='${db:Status-Status}\n' "$each" 2>/dev/null | grep -qx installed || missing="$missing $each"
done
[ -n "$missing" ] || exit 0
echo "tools for tests:$missing"
export DEBIAN_FRONTEND=noninteractive
sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
$sudo apt-get -o Acquire::Retries=3 update --quiet=2
# shellcheck disable=SC2086  # words are meant
$sudo apt-get -o Acquire::Retries=3 install --quiet=2 --yes --no-install-recommends $missing >/dev/null
