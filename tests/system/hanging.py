# SPDX-License-Identifier: Apache-2.0
"""A file system that never answers, as one of a file server that is away, or of a driver that hangs.

It is one of FUSE whose server, this process, never reads what it is asked: until its first answer the kernel
keeps whoever looks at it (fuse(4); fs/fuse/dev.c in Linux), and only SIGKILL ends that.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator

from lab.host import Host


@contextlib.contextmanager
def hanging(host: Host, path: str) -> Iterator[None]:
    """Cover a directory of the host; who looks at it is kept, and gets an error when the block ends."""
    # By this process, as the host's own may open no such device.
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other"
    enter = ["nsenter", f"--target={host.pid1}", "--mount", "--root", "--wd"]
    try:
        # --internal-only: FUSE as a rule has a program of its own to mount with.
        mount = ["mount", "--internal-only", "--types", "fuse", "--options", options, "hanging", path]
        subprocess.run([*enter, *mount], check=True, pass_fds=[server])
        yield
    finally:
        os.close(server)
        host.run("umount", "--lazy", path, check=False)
