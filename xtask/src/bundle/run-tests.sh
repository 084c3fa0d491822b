#!/bin/sh
# Runs every test binary of the bundle, or those whose name contains $1. The end-to-end tests use this
# bundle's tools and the Python of OCCLUDE_PYTHON (default: python3) with the packages of the project's tests.
set -eu
home=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
tool=occlude-train
. "$home/libexec/libraries.sh"
OCCLUDE_PYTHON=$(command -v "$python")
OCCLUDE_BIN_DIR=$home/bin
export OCCLUDE_PYTHON OCCLUDE_BIN_DIR
failed=
for test in "$home"/libexec/tests/*"${1:-}"*; do
    echo "== $(basename -- "$test")"
    "$test" || failed="$failed $(basename -- "$test")"
done
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
