#!/bin/sh
# Runs the stages of this kit: see README, or `./run.sh --help`. The Python is OCCLUDE_PYTHON, or python3.
set -eu
home=$(dirname -- "$(readlink -f -- "$0")")
exec "${OCCLUDE_PYTHON:-python3}" "$home/kit/run.py" "$@"
