# SPDX-License-Identifier: Apache-2.0
"""Commands that set something of the kernel, now and at each boot.

They need nothing but systemd and procps, which every Debian has.
"""

from pathlib import PurePosixPath


def keep_sysctl(name: str, value: object) -> str:
    return f"echo {name} = {value} >>/etc/sysctl.d/60-ovms.conf && sysctl --system"


def keep_in_sysfs(files: str, value: str) -> str:
    """Write ``value`` to ``files``, a glob, as "w" of tmpfiles.d(5) takes them."""
    name = f"ovms-{PurePosixPath(files).name}.conf"
    return f"echo 'w {files} - - - - {value}' >/etc/tmpfiles.d/{name} && systemd-tmpfiles --create {name}"
