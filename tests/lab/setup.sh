#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs by apt what is missing from packages.txt and makes .venv. Costs well under a second when nothing changed.
set -euo pipefail

lab=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$lab/../.." && pwd)
cache=${OVMS_SCALER_CACHE:-$root/.cache}
venv=$root/.venv
policy=/usr/sbin/policy-rc.d

missing_packages() {
    local wanted
    mapfile -t wanted < <(grep --invert-match '^#' "$lab/packages.txt")
    dpkg-query --show --showformat='${db:Status-Abbrev} ${Package}\n' "${wanted[@]}" 2>/dev/null |
        sed -n 's/^ii *//p' | sort -u | comm -13 - <(printf '%s\n' "${wanted[@]}" | sort -u)
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    [ "${#missing[@]}" -gt 0 ] || return 0
    echo "setup: installing ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        echo "cannot install Debian packages: not root (hint: run 'make setup' once as root)" >&2
        return 1
    fi
    # Without this file a machine whose PID 1 is not systemd would start nginx's default site from its init script.
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    local lock=(-o DPkg::Lock::Timeout=900)
    apt-get "${lock[@]}" --quiet=2 update
    apt-get "${lock[@]}" --quiet=2 --yes --no-install-recommends install "${missing[@]}" >"$cache/apt.log" 2>&1 || {
        tail -n 40 "$cache/apt.log" >&2
        return 1
    }
    rm -f "$cache/apt.log"
}

make_venv() {
    local key
    # A virtual environment holds absolute paths and belongs to one interpreter, so both are part of its key.
    key=$({ cat "$lab/requirements-dev.txt"; /usr/bin/python3 --version; echo "$root"; } | sha256sum)
    if [ -e "$venv/.key" ] && [ "$(cat "$venv/.key")" = "$key" ]; then
        return 0
    fi
    echo "setup: making $venv"
    rm -rf "$venv"
    /usr/bin/python3 -m venv --system-site-packages "$venv"
    "$venv/bin/pip" install --requirement "$lab/requirements-dev.txt" >"$cache/pip.log" 2>&1 || {
        tail -n 40 "$cache/pip.log" >&2
        return 1
    }
    rm -f "$cache/pip.log"
    # Makes the package and the tests' own modules importable from any working directory.
    printf '%s\n%s\n' "$root/agent" "$root/tests" \
        >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ovms_scaler_source.pth"
    printf '%s\n' "$key" >"$venv/.key"
}

mkdir -p "$cache"
if [ -n "$(missing_packages)" ]; then
    exec 9>/run/lock/ovms-scaler-setup.lock # one for the machine: two clones share its apt
    flock 9
    install_packages
    exec 9>&-
fi
exec 8>"$cache/setup.lock"
flock 8
make_venv
