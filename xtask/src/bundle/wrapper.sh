#!/bin/sh
# Starts the tool that this script is named after; see libexec/libraries.sh and README.
set -eu
tool=$(basename -- "$0")
home=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
. "$home/libexec/libraries.sh"
exec "$home/libexec/$tool" "$@"
