#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the stand-in for the ovms program in the layout of OVMS's tarball: DEST/bin/ovms, DEST/lib, DEST/lib/python.
# Usage: build.sh [DEST]    (default: .cache/ovms-standin in the repository)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
dest=${1:-$root/.cache/ovms-standin}
python=$root/.venv/bin/python3
[ -x "$python" ] || python=/usr/bin/python3

mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
# Two builds at once would take each other's files away.
exec 9>"$dest/.lock"
flock 9

stamp_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
is_current() { [ "$(cat "$dest/.$1" 2>/dev/null || true)" = "$2" ]; }

packages=$(stamp_of "$here/requirements.txt" "$here/build.sh")
sources=$(cd "$here" && find bin/ovms build.sh ovms_standin -type f ! -name '*.pyc' | LC_ALL=C sort | xargs cat | sha256sum)
did=

if ! is_current packages "$packages"; then
    new=$dest/lib/.python.new
    rm -rf "$new"
    machine=$(uname -m)
    # For Debian 12's Python, whatever Python builds it; hosts with another one get the simulated engine.
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target "$new" \
        --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none --only-binary :all: \
        --platform "manylinux_2_28_$machine" --platform "manylinux_2_27_$machine" \
        --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" --platform any \
        --requirement "$here/requirements.txt" 2>"$dest/.pip.log" || { cat "$dest/.pip.log" >&2; exit 1; }
    rm -rf "$dest/lib/python" "$dest/.sources"
    mv "$new" "$dest/lib/python"
    echo "$packages" >"$dest/.packages"
    did="installed OpenVINO, "
fi

if ! is_current sources "$sources"; then
    rm -rf "${dest:?}/bin" "$dest/lib/python/lab"
    mkdir -p "$dest/bin" "$dest/lib/python/lab/standin"
    cp "$here/bin/ovms" "$dest/bin/ovms"
    chmod 755 "$dest/bin/ovms"
    cp -r "$here/ovms_standin" "$dest/lib/python/lab/standin/"
    find "$dest/lib/python/lab" -name __pycache__ -prune -exec rm -rf {} +
    # The tree is mounted read-only where it runs, so nothing can be cached there later.
    "$python" -m compileall -q --invalidation-mode unchecked-hash -s "$dest" -p /opt/ovms "$dest/lib/python/lab"
    echo "$sources" >"$dest/.sources"
    did="${did}copied the program, "
fi

echo "ovms stand-in: ${did:-nothing to do, }ready at $dest"
