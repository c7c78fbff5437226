#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs pytest with a directory for temporary files that no other run shares, and removes it afterwards.
# Usage: pytest.sh LIMIT [OPTION...]    LIMIT is for all tests together, such as 10m
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
# In memory where there is room: to remove a hundred thousand files from a disk took half a minute.
place=/tmp
if [ -x /dev/shm ] && [ "$(df --output=avail --block-size=1G /dev/shm | tail -n 1)" -ge 4 ] &&
    ! findmnt --noheadings --output OPTIONS /dev/shm | grep -q noexec; then
    place=/dev/shm
fi
# Short, because tests make Unix sockets in it, whose paths are limited to 107 bytes.
PYTEST_DEBUG_TEMPROOT=$(mktemp --directory "$place/ovms.XXXXXX")
export PYTEST_DEBUG_TEMPROOT
trap 'rm -rf "$PYTEST_DEBUG_TEMPROOT"' EXIT
limit=$1
shift
# The time limit of one test interrupts it once; what swallows that would otherwise hang for good.
timeout --foreground --signal=INT --kill-after=30s "$limit" \
    "$root/.venv/bin/python" -m pytest --quiet -p no:cacheprovider "$@"
