#!/bin/sh
# Run a program on the stand-in CUDA driver (`make standin` builds it), with books of its own: sh ops/standin.sh PROGRAM [ARGUMENT…]
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
domain=${STANDIN_DOMAIN:-run-$$}
LD_LIBRARY_PATH="$here/build/standin" STANDIN_REFERENCES="$here/build/standin/references.so" STANDIN_DOMAIN="$domain" \
    STANDIN_DEVICES="${STANDIN_DEVICES:-2}" TEST_DRIVER=standin "$@"
status=$?
rm -f "/dev/shm/standin-$(id -u)-$domain" "/dev/shm/standin-$(id -u)-$domain"-* # each worker of pytest has books of its own
exit $status
