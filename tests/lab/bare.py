# SPDX-License-Identifier: Apache-2.0
"""Images of a Debian host on which nothing is installed that is not on every one.

A disposable host has no network. What its apt would ask a mirror for is on its disk already: the indexes, as
after `apt update`, and archives, as after an installation that was interrupted when all had been downloaded.
They are not unpacked: to resolve, unpack and configure them is left to apt.
"""

import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

from lab import image, paths
from lab.image import Image

# Part of every key: change it when what is done to an image changes without anything else here changing.
RECIPE = "1"
FIELDS = ("Pre-Depends", "Depends", "Recommends")
# Run inside mmdebstrap by the machine's apt, which has the network. mmdebstrap itself installs nothing that
# is only recommended; an administrator's apt does.
DOWNLOAD = """
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get --quiet=2 --yes --install-recommends --download-only satisfy {wanted}
"""


def read_relations(deb: Path) -> list[str]:
    """What a package depends on and recommends, each as apt-get(8) satisfy takes it."""
    shown = "".join(f"${{{field}}}\\n" for field in FIELDS)
    command = ["dpkg-deb", "--show", f"--showformat={shown}", str(deb)]
    lines = subprocess.run(command, check=True, text=True, capture_output=True).stdout.splitlines()
    return [line for line in lines if line]


def build(release: str, wanted: list[str]) -> Image:
    """A host with Debian's packages of priority important and no other, from the cache or built now.

    `wanted`, relations to packages, can be installed on it without a network, and is not installed.
    """
    key = hashlib.sha256("\n".join([RECIPE, DOWNLOAD, image.CUSTOMIZE, release, *wanted]).encode())
    directory = paths.CACHE / "images" / f"{release}-bare-{key.hexdigest()[:12]}"
    with paths.lock(f"image-{release}-bare"):
        if not directory.exists():
            sys.stderr.write(f"image: building {release} bare\n")
            image.remove_trees(directory.parent, lambda name: name.startswith(f"{release}-bare-"))
            partial = directory.with_name(directory.name + ".partial")
            download = DOWNLOAD.format(wanted=" ".join(shlex.quote(one) for one in wanted))
            hooks = [f"--customize-hook={hook}" for hook in (download, image.CUSTOMIZE)]
            options = ["--variant=important", *hooks, "--skip=cleanup/apt"]
            image.run_mmdebstrap(release, ["systemd-sysv"], partial, options)
            partial.rename(directory)
    return Image(release=release, layers=(directory,))
