#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs every linter, reports them all, and fails if one of them did.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

failed=()
check() {
    local name=$1
    shift
    "$@" || failed+=("$name")
}

mapfile -t tracked < <(git ls-files --cached --others --exclude-standard)
files=()
prose=()
scripts=()
for file in "${tracked[@]}"; do
    [ -f "$file" ] || continue
    files+=("$file")
    # A model's vocabulary and the copies of sysfs are data, not spelling.
    [[ $file == tests/lab/standin/model*/* || $file == tests/data/* ]] || prose+=("$file")
    [[ $(head -c 64 "$file" | head -n 1 | tr -d '\0') =~ ^\#!.*(/|\ )(ba|da)?sh($|\ ) ]] && scripts+=("$file")
done

check "ruff check" .venv/bin/ruff check --quiet
check "ruff format" .venv/bin/ruff format --check --quiet
check mypy .venv/bin/mypy
check shellcheck shellcheck "${scripts[@]}"
# renderD is how the kernel names the render nodes of GPUs.
check codespell codespell --ignore-words-list renderd "${prose[@]}"

if [ "${#failed[@]}" -gt 0 ]; then
    printf 'lint: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
echo "lint: ${#files[@]} files, ${#scripts[@]} shell scripts: ruff, mypy, shellcheck and codespell are content"
