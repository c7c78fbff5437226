# SPDX-License-Identifier: Apache-2.0
"""Runs command lines and says what went wrong with those that fail."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_COLORS": "0",
    "DEBIAN_FRONTEND": "noninteractive",
}
# Moves itself into the control group named first, then becomes the rest: a command belongs to the host.
ENTER_GROUP = 'echo 0 > "$1" && shift && exec "$@"'


# Prints the first line of the journal that matches $1, waiting for it if need be, and ends the follower.
FOLLOW = """
exec 3< <(exec journalctl --follow --lines=all --output=short-precise "${@:2}")
follower=$!
grep --max-count=1 --extended-regexp -e "$1" <&3
found=$?
kill $follower
exit $found
"""


class LabError(Exception):
    """Something asked of a host did not happen; the message says what, and what was seen instead."""


def execute(
    command: Sequence[str], stdin: bytes, timeout_sec: float
) -> "subprocess.CompletedProcess[bytes]":
    """Run `command` to its end. All it started is killed when it takes longer, or on an interrupt."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout_sec)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def run(
    command: Sequence[str], *, stdin: bytes = b"", check: bool, timeout_sec: float, called: str
) -> "subprocess.CompletedProcess[str]":
    """Run `command`, named `called` in messages. Raises LabError when it fails (if `check`) or is slow."""
    return judge(
        lambda: execute(command, stdin, timeout_sec), check=check, timeout_sec=timeout_sec, called=called
    )


def judge(
    execution: "Callable[[], subprocess.CompletedProcess[bytes]]",
    *,
    check: bool,
    timeout_sec: float,
    called: str,
) -> "subprocess.CompletedProcess[str]":
    """What an execution, named `called` in messages, ended with, as text.

    It raises TimeoutExpired when it takes longer than `timeout_sec`. Raises LabError for that, and when the
    exit status is not 0 if `check`.
    """
    try:
        done = execution()
    except subprocess.TimeoutExpired as error:
        raise LabError(f"cannot run {called}: not done after {timeout_sec} s") from error
    stdout, stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    if check and done.returncode != 0:
        output = stdout[-4000:] + stderr[-4000:]
        raise LabError(f"cannot run {called}: exit status {done.returncode}\n{output}")
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)
