# SPDX-License-Identifier: Apache-2.0
"""Images on which the package is installed already, for tests whose subject is not the installation."""

from lab import deb, image, paths
from lab.host import Host
from lab.image import Image


def build(release: str) -> Image:
    """A host image of `release` with the package of the working tree installed on it, cached by content."""
    base = image.build(release, image.Kind.HOST)
    debs = deb.build(release)
    key = deb.read_key(release)[:12]
    layers = paths.CACHE / "layers"
    layer = layers / f"{base.key}-installed-{key}"
    with paths.lock(f"installed-{release}"):
        if not layer.exists():
            image.remove_trees(layers, lambda name: name.startswith(f"{release}-"))
            layers.mkdir(parents=True, exist_ok=True)
            partial = layer.with_name(layer.name + ".partial")
            with Host.boot(base, name=f"{release}-install") as host:
                host.install(*debs)
                host.poweroff()
                host.save_layer(partial)
            partial.rename(layer)
    return base.with_layer(layer)
