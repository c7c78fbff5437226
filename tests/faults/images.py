# SPDX-License-Identifier: Apache-2.0
"""The root file systems of hosts with our package, and with the balancers that it is compared with."""

import hashlib

from lab import image, installed, paths
from lab.image import Image

from faults.peers import Balancer

RELEASE = "bookworm"


def prepare(balancers: frozenset[Balancer]) -> dict[Balancer, Image]:
    """The images of these, from the cache or built now (root, package mirror; about a minute each)."""
    images = {balancer: build_peers() for balancer in balancers - {Balancer.ours}}
    if Balancer.ours in balancers:
        images[Balancer.ours] = installed.build(RELEASE)
    return images


def build_peers() -> Image:
    """A host image with the balancers that ours is compared with."""
    wanted = sorted({*image.packages(image.Kind.HOST), *paths.read_package_list("peers")})
    text = "\n".join([image.RECIPE, image.CUSTOMIZE, RELEASE, *wanted])
    directory = paths.CACHE / "images" / f"{RELEASE}-peers-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    with paths.lock("image-peers"):
        if not directory.exists():
            image.remove_trees(directory.parent, lambda name: name.startswith(f"{RELEASE}-peers-"))
            partial = directory.with_name(directory.name + ".partial")
            options = ["--variant=minbase", f"--customize-hook={image.CUSTOMIZE}"]
            image.run_mmdebstrap(RELEASE, wanted, partial, options)
            partial.rename(directory)
    return Image(release=RELEASE, layers=(directory,))
