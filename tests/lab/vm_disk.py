# SPDX-License-Identifier: Apache-2.0
"""Makes a disk from layers of directories: `vm_disk.py DISK BYTES DIRECTORY LAYER...`, lowest layer first.

A program of its own, to be run with unshare(1) in a mount namespace that nobody else shares: what it mounts
at DIRECTORY ends with it.
"""

import subprocess
import sys
from pathlib import Path

from lab.keeper import mount_root

# With the Python of the disk: under emulation it takes seconds to compile what is imported.
PREPARE = "python3 -m compileall -q /opt/ovms /usr/local/lib/lab; depmod $(ls /usr/lib/modules)"


def main(disk: str, size_bytes: int, directory: str, layers: list[str]) -> None:
    image = Path(disk).absolute()
    mount_root(Path(directory), layers, size_bytes)
    subprocess.run(["chroot", "merged", "sh", "-euc", PREPARE], check=True)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    # No journal and no tables that the guest would write: nothing of the disk is kept.
    options = ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, "-d", "merged", str(image)], check=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
