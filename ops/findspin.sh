#!/bin/sh
# Print the path of SPIN, the model checker. Where it is not installed, Debian's package is unpacked into build/spin; that needs no root.
set -e
command -v spin && exit 0
unpacked="$PWD/build/spin"
if [ ! -x "$unpacked/usr/bin/spin" ]; then
    mkdir -p "$unpacked"
    (cd "$unpacked" && apt-get download spin >/dev/null 2>&1 && dpkg -x spin_*.deb .) || {
        echo "make: SPIN is not here and could not be fetched: apt-get install spin" >&2
        exit 1
    }
fi
echo "$unpacked/usr/bin/spin"
