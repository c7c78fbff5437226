# SPDX-License-Identifier: Apache-2.0
"""Remedies of doctor as somebody would type them: read by a shell, and run below a made-up root."""

import re
import shlex
import subprocess
from pathlib import Path

from ovms_scaler.core.checks.finding import Finding

# What a remedy may call; each is on Debian 12 and 13, or is what the finding is about.
PROGRAMS = frozenset(
    {
        "apt", "apt-file", "chcpu", "chgrp", "chmod", "chown", "coredumpctl", "dmesg", "docker",
        "driverctl", "du", "echo", "file", "findmnt", "free", "getent", "git", "grep", "head",
        "journalctl", "kill", "ls", "modprobe", "mv", "ovms-scalerctl", "podman", "ps", "rm", "setfacl",
        "sort", "sysctl", "systemctl", "systemd-analyze", "systemd-sysusers", "systemd-tmpfiles", "tail",
        "taskset", "tee", "timedatectl", "udevadm",
    }
)  # fmt: skip
# How a sentence may begin.
SENTENCES = frozenset(
    {
        "add", "change", "check", "copy", "did", "is", "no", "on", "place", "remove", "renew", "restore",
        "run", "see", "set", "take", "upgrade", "use",
    }
)  # fmt: skip
_PROSE = frozenset({"and", "or", "then", "if", "it", "else", "the", "until"})
# Programs that change more than files, as far as tests need them: what they would have the kernel read.
_STANDINS = r"""
systemctl() { :; }
sysctl() {
    while read -r name _ value; do echo "$value" >"$root/proc/sys/${name//.//}"; done \
        <"$root/etc/sysctl.d/60-ovms.conf"
}
systemd-tmpfiles() {
    while read -r _ files _ _ _ _ value; do
        for file in "$root"$files; do echo "$value" >"$file"; done
    done <"$root/etc/tmpfiles.d/$2"
}
"""


def is_typed(remedy: str) -> bool:
    return remedy.split(maxsplit=1)[0] in PROGRAMS


def check_remedy(found: Finding) -> None:
    """It is one line that a shell takes, of programs that we know and nothing else; or a sentence."""
    remedy = found.remedy
    assert remedy
    assert "\n" not in remedy
    if not is_typed(remedy):
        assert remedy.split(maxsplit=1)[0] in SENTENCES, remedy
        return
    read = subprocess.run(["bash", "-n", "-c", remedy], capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, ""), remedy
    reader = shlex.shlex(remedy, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    words = list(reader)
    first = [word for before, word in zip([";", *words], words, strict=False) if before in (";", "&&", "|")]
    assert PROGRAMS.issuperset(first), remedy
    assert not _PROSE & set(words), remedy
    assert not [word for word in words if word.endswith(",")], remedy


def type_remedy(remedy: str, root: Path) -> None:
    """Run it with ``root`` in the place of /, but for the path in a line of tmpfiles.d(5)."""
    moved = re.sub(r"(?<=[ >])(?<!'w )/", f"{root}/", remedy)
    (root / "root").mkdir(exist_ok=True)
    for directory in ("etc/sysctl.d", "etc/tmpfiles.d"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    script = f"set -e; root={shlex.quote(str(root))}\n{_STANDINS}\n{moved}"
    subprocess.run(["bash", "-c", script], check=True, capture_output=True, cwd=root)
