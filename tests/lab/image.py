# SPDX-License-Identifier: Apache-2.0
"""Builds and caches the root file systems that disposable hosts boot from.

`python -m lab.image [RELEASE...]` builds all that are missing. Mirror, proxy and certificates are those that
the machine's own apt is configured with.
"""

import dataclasses
import enum
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import paths

# Part of every key: change it when what is done to an image changes without its package list changing.
RECIPE = "3"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Options of the machine's apt that decide whether a mirror can be reached and believed.
FORWARDED = (
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Retries",
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
)
# Run inside mmdebstrap with the new root as $1. The timers would take dpkg's lock in the middle of a test.
CUSTOMIZE = """
set -eu
ln -s /dev/null "$1/etc/systemd/system/apt-daily.timer"
ln -s /dev/null "$1/etc/systemd/system/apt-daily-upgrade.timer"
: > "$1/etc/machine-id"
rm -f "$1/etc/hostname"
printf '127.0.0.1 localhost\\n::1 localhost\\n' > "$1/etc/hosts"
: > "$1/etc/resolv.conf"
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"
"""


class Kind(enum.StrEnum):
    """What an image is for: a host to install on, or one to build packages in."""

    HOST = "host"
    BUILD = "build"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A read-only root file system: directories to stack with overlayfs, lowest first."""

    release: str
    layers: tuple[Path, ...]

    @property
    def key(self) -> str:
        """Names the content: equal for equal images, usable in a file name."""
        return "-".join(layer.name for layer in self.layers)

    def with_layer(self, layer: Path) -> "Image":
        """The same image with one more directory on top."""
        return dataclasses.replace(self, layers=(*self.layers, layer))


def packages(kind: Kind) -> list[str]:
    """The packages of an image; one to build in has those of a host, and what debian/control asks for."""
    names = set(paths.read_package_list("host"))
    if kind is Kind.BUILD:
        control = (paths.ROOT / "debian" / "control").read_text()
        names |= {*paths.read_package_list("build"), *parse_build_dependencies(control)}
    return sorted(names)


def parse_build_dependencies(control: str) -> list[str]:
    """The package names in Build-Depends of a debian/control (deb-src-control(5)), alternatives left out."""
    field = re.search(r"^Build-Depends:(.*(?:\n[ \t#].*)*)", control, re.MULTILINE)
    lines = field.group(1).splitlines() if field else []
    text = " ".join(line for line in lines if not line.startswith("#"))
    return [words[0] for words in (entry.split() for entry in text.split(",")) if words]


def read_mirrors() -> dict[str, str]:
    """The mirrors of Debian by label ("Debian", "Debian-Security"), from apt's own configuration.

    apt-get(8) indextargets resolves every source format that apt knows, but has the origin only of
    lists already downloaded. Raises RuntimeError when no source of Debian itself is configured.
    """
    command = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)"]
    command += ["Created-By: Packages", "Origin: Debian"]
    for refresh in (False, True):
        if refresh:
            subprocess.run(["apt-get", "--quiet=2", "update"], check=True)
        lines = subprocess.run(command, check=True, text=True, capture_output=True).stdout.splitlines()
        mirrors = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
        if "Debian" in mirrors:
            return mirrors
    raise RuntimeError("cannot build an image: apt has no source of origin 'Debian' (hint: see /etc/apt)")


def render_sources(release: str, mirrors: dict[str, str]) -> str:
    """sources.list(5) lines for `release` on the given mirrors."""
    signed = f" [signed-by={KEYRING}]" if KEYRING.exists() else ""
    lines = [f"deb{signed} {mirrors['Debian']} {suite} main" for suite in (release, f"{release}-updates")]
    if "Debian-Security" in mirrors:
        lines.append(f"deb{signed} {mirrors['Debian-Security']} {release}-security main")
    return "".join(line + "\n" for line in lines)


def read_forwarded_options() -> str:
    """The machine's apt options in FORWARDED, in the form of apt.conf(5)."""
    dump = subprocess.run(["apt-config", "dump"], check=True, text=True, capture_output=True).stdout
    return "".join(line + "\n" for line in dump.splitlines() if line.startswith(FORWARDED))


def build(release: str, kind: Kind) -> Image:
    """The image, from the cache or built now: about a minute, and needs root and the package mirror."""
    wanted = packages(kind)
    key = hashlib.sha256("\n".join([RECIPE, CUSTOMIZE, release, *wanted]).encode()).hexdigest()[:12]
    directory = paths.CACHE / "images" / f"{release}-{kind}-{key}"
    with paths.lock(f"image-{release}-{kind}"):
        if not directory.exists():
            sys.stderr.write(f"image: building {release} {kind} ({len(wanted)} packages)\n")
            remove_trees(directory.parent, lambda name: name.startswith(f"{release}-{kind}-"))
            partial = directory.with_name(directory.name + ".partial")
            run_mmdebstrap(release, wanted, partial, ["--variant=minbase", f"--customize-hook={CUSTOMIZE}"])
            partial.rename(directory)
    return Image(release=release, layers=(directory,))


def run_mmdebstrap(release: str, wanted: list[str], target: Path, variant: list[str]) -> None:
    """Make a file system of `release` with the packages `wanted` in the directory `target`.

    `variant` are the options of mmdebstrap(1) that say what is done with the packages.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    options = target.with_name(target.name + ".apt.conf")
    options.write_text(read_forwarded_options())
    command = ["mmdebstrap", "--quiet", *variant, "--mode=root", "--format=directory"]
    command += [f"--include={','.join(wanted)}", f"--aptopt={options}"]
    command += [release, str(target), "-"]
    sources = render_sources(release, read_mirrors())
    try:
        done = subprocess.run(command, input=sources, text=True, capture_output=True)
    finally:
        options.unlink()
    if done.returncode != 0:
        raise RuntimeError(f"cannot build an image of {release!r}: mmdebstrap said:\n{done.stderr[-4000:]}")


def remove_trees(parent: Path, is_stale: Callable[[str], bool]) -> None:
    """Remove the directories in `parent` whose name `is_stale` accepts, unless a host of this clone is up.

    It may stand on one of them: they go the next time.
    """
    if any((paths.CACHE / "hosts").glob("*")):
        return
    for path in parent.glob("*"):
        if is_stale(path.name):
            shutil.rmtree(path)


def main(releases: list[str]) -> None:
    """Build the images of `releases`, or of all, two at a time: one waits for the network, one unpacks."""
    wanted = [(release, kind) for release in releases or paths.RELEASES for kind in Kind]
    with ThreadPoolExecutor(max_workers=2) as pool:
        for image in pool.map(lambda pair: build(*pair), wanted):
            sys.stdout.write(f"image: {image.key}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
