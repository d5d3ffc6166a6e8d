#!/bin/sh
# Runs the tests of the Python API with the newest CPython of this machine, in an environment of its
# own. PYTHON=… chooses another one. Debian 12 has 3.11 only, with which `make test` runs them.
set -eu
cd "$(dirname "$0")/.."
venv=build/newest

newest() {
    for candidate in ${PYTHON:-python3.15 python3.14 python3.13 python3.12} \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[5432].*/bin/python; do
        if command -v "$candidate" >/dev/null && "$candidate" -c '' 2>/dev/null; then
            printf '%s %s\n' "$("$candidate" -c 'import sys; print("%d.%02d.%02d" % sys.version_info[:3])')" \
                "$candidate"
        fi
    done | sort | tail -n 1 | cut -d' ' -f2
}

python=$(newest)
if [ -z "$python" ]; then
    echo "There is no CPython newer than 3.11 in PATH or in pyenv; PYTHON=... names one." >&2
    exit 1
fi
"$python" --version
"$python" -m venv --clear $venv
$venv/bin/python -m pip install -q --disable-pip-version-check '.[fsspec,test]' </dev/null
$venv/bin/python -m pytest -q tests/api "$@"
