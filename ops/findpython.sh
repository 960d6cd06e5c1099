#!/bin/sh
# Print a Python of at least 3.11 that runs and can make virtual environments; say what is missing when there is none.
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
echo "make: no Python 3.11 or newer with venv: install one (Debian: python3 and python3-venv), or set PYTHON=/path/to/python3" >&2
exit 1
