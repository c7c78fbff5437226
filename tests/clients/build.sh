#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the virtual environment of the outside clients. Usage: build.sh DEST; quick when nothing changed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dest=$(cd "$1" && pwd)
exec 9>"$dest/.lock"
flock 9
key=$({ cat "$here/requirements.txt"; /usr/bin/python3 --version; echo "$dest"; } | sha256sum)
if [ "$(cat "$dest/.key" 2>/dev/null || true)" = "$key" ]; then
    echo "clients: nothing to do, ready at $dest"
    exit
fi
rm -rf "$dest/venv" "$dest/.key"
/usr/bin/python3 -m venv "$dest/venv"
"$dest/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" \
    2>"$dest/pip.log" || {
    cat "$dest/pip.log" >&2
    exit 1
}
echo "$key" >"$dest/.key"
echo "clients: ready at $dest"
