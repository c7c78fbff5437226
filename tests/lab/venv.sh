#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment DEST/venv of programs that are not ours. Usage: venv.sh REQUIREMENTS DEST; quick when
# nothing changed.
set -euo pipefail

requirements=$1
mkdir -p "$2"
dest=$(cd "$2" && pwd)
name=$(basename "$dest")
exec 9>"$dest/.lock"
flock 9
key=$({ cat "$requirements"; /usr/bin/python3 --version; echo "$dest"; } | sha256sum)
if [ "$(cat "$dest/.key" 2>/dev/null || true)" = "$key" ]; then
    echo "$name: nothing to do, ready at $dest"
    exit
fi
rm -rf "$dest/venv" "$dest/.key"
/usr/bin/python3 -m venv "$dest/venv"
"$dest/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" \
    2>"$dest/pip.log" || {
    cat "$dest/pip.log" >&2
    exit 1
}
echo "$key" >"$dest/.key"
echo "$name: ready at $dest"
