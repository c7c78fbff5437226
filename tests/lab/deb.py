# SPDX-License-Identifier: Apache-2.0
"""Builds the Debian package in a host of each release, offline, with that release's own tools.

`python -m lab.deb build [RELEASE...]` leaves the files in the cache, and `lintian [RELEASE...]` in its place
checks them and a source package with the lintian of their release.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import image, paths
from lab.commands import LabError
from lab.host import Host

# Not part of what is packaged: a change here needs no new package.
LEFT_OUT = (
    "tests/bench/",
    "tests/lab/",
    "tests/system/",
    "tests/vm/",
    "typings/",
    ".ci/",
    "HACKING.md",
    "Makefile",
)
BUILD = """
cp -a /source /tmp/build
cd /tmp/build
export DEB_BUILD_OPTIONS="parallel=2 {options}"
dpkg-buildpackage --unsigned-source --unsigned-changes --build=binary
"""
# What differs between two machines and could be written into a package: when, where, by whom and in which
# language it is built. The tests are left out, which are no part of what is built.
REBUILD = """
mkdir -p /var/tmp/elsewhere
cp -r /source /var/tmp/elsewhere/tree
cd /var/tmp/elsewhere/tree
find . -exec touch --date=2031-02-03 {} +
umask 0002
export HOME=/var/tmp USER=somebody LC_ALL=POSIX LANGUAGE=fr TZ=Pacific/Kiritimati PYTHONHASHSEED=7
export DEB_BUILD_OPTIONS="parallel=1 nocheck" NO_FAKE_STAT=1
faketime -m --exclude-monotonic -f +400d \\
    dpkg-buildpackage --unsigned-source --unsigned-changes --build=binary >&2
cd ..
sha256sum *.deb
"""
LINTIAN = """
cp -r /source /tmp/ovms-scaler
cd /tmp
dpkg-source --build ovms-scaler >/dev/null
lintian --allow-root --pedantic --display-info --info --fail-on none --tag-display-limit 0 \\
    --suppress-tags "$1" /output/*.changes /tmp/*.dsc
"""
# What one release's lintian says that no override can answer: the other's has nothing to apply it to.
SUPPRESSED = {
    "bookworm": (
        "newer-standards-version",  # the newest that it knows was Debian 12's
        "package-supports-alternative-init-but-no-init.d-script",  # the product is made of units of systemd
    ),
    "trixie": (),
}


def read_source_names(left_out: tuple[str, ...] = LEFT_OUT) -> list[str]:
    """The files of the clone that the package is built from: those git tracks, as they are now."""
    command = ["git", "-C", str(paths.ROOT), "-c", f"safe.directory={paths.ROOT}", "ls-files", "-z"]
    names = subprocess.run(command, check=True, text=True, capture_output=True).stdout.split("\0")
    return [
        name for name in names if name and not name.startswith(left_out) and (paths.ROOT / name).is_file()
    ]


def read_hash(names: list[str], extra: str) -> str:
    """Names the content and the modes of the source files, and `extra`."""
    digest = hashlib.sha256(extra.encode())
    for name in names:
        path = paths.ROOT / name
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name} {os.access(path, os.X_OK)} {content}\n".encode())
    return digest.hexdigest()


def output_directory(release: str) -> Path:
    """Where the packages of a release are."""
    return paths.CACHE / "deb" / release


def read_key(release: str) -> str:
    """Names the content that the packages of `release` were built from; they must have been built."""
    return (output_directory(release) / ".key").read_text()


def build(release: str) -> list[Path]:
    """The packages of `release`, built now if the sources changed. Raises LabError when that fails."""
    target = output_directory(release)
    names = read_source_names()
    builder = image.build(release, image.Kind.BUILD)
    key = read_hash(names, builder.key)
    with paths.lock(f"deb-{release}"):
        stamp = target / ".key"
        if not stamp.exists() or stamp.read_text() != key:
            sys.stderr.write(f"deb: building for {release}\n")
            shutil.rmtree(target, ignore_errors=True)
            source = paths.CACHE / "deb" / f"{release}.source"
            copy_sources(names, source)
            with Host.boot(builder, binds={"/source": source}) as host:
                run_build(host, target.with_suffix(".log"))
                fetch_output(host, target)
            shutil.rmtree(source)
            stamp.write_text(key)
    return sorted(target.glob("*.deb"))


def copy_sources(names: list[str], target: Path) -> None:
    """Copy the named files of the clone to the new directory `target`."""
    shutil.rmtree(target, ignore_errors=True)
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths.ROOT / name, copy, follow_symlinks=False)


def run_build(host: Host, log: Path) -> None:
    """Run dpkg-buildpackage, which writes to `log`. Raises LabError with the end of that when it fails."""
    # For the inner loop: the same package, without its tests run while it is built.
    options = "nocheck" if os.environ.get("NOCHECK") else ""
    script = BUILD.replace("{options}", options)
    done = host.run("sh", "-euc", f"exec 2>&1\n{script}", check=False, timeout_sec=600)
    log.write_text(done.stdout)
    if done.returncode != 0:
        end = "\n".join(done.stdout.splitlines()[-60:])
        raise LabError(f"cannot build the package for {host.image.release!r}:\n{end}\nhint: see {log}")


def fetch_output(host: Host, target: Path) -> None:
    """Copy what dpkg-buildpackage made out of the host."""
    target.mkdir(parents=True)
    for path in host.script("ls /tmp/*.deb /tmp/*.changes /tmp/*.buildinfo").split():
        (target / Path(path).name).write_bytes(host.read_bytes(path))


def rebuild(release: str) -> dict[str, str]:
    """Build once more, in other surroundings; the SHA-256 of each package by its file name."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        copy_sources(read_source_names(), source)
        with Host.boot(image.build(release, image.Kind.BUILD), binds={"/source": source}) as host:
            lines = host.run("bash", "-euc", REBUILD, timeout_sec=600).stdout.splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def lint(release: str) -> int:
    """Run lintian over the packages of `release` and their source and show what it says; its exit status."""
    build(release)
    builder = image.build(release, image.Kind.BUILD)
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        # All of it: a maintainer would upload the whole tree.
        copy_sources(read_source_names(left_out=()), source)
        with Host.boot(builder, binds={"/output": output_directory(release), "/source": source}) as host:
            suppressed = ",".join(SUPPRESSED[release])
            done = host.run("sh", "-euc", LINTIAN, "sh", suppressed, check=False, timeout_sec=300)
    # Anything counts: errors, warnings, information, pedantry. (--fail-on counts what is overridden, too.)
    is_content = done.returncode == 0 and not re.search(r"^[EWIP]: ", done.stdout, re.MULTILINE)
    verdict = "content" if is_content else "not content"
    sys.stdout.write(f"{done.stdout}{done.stderr}lintian: {release}: {verdict}\n")
    return 0 if is_content else 1


def main(action: str, releases: list[str]) -> int:
    """Do `action` for all `releases`; the exit status."""
    try:
        if action == "lintian":
            return max(lint(release) for release in releases)
        for release in releases:
            for deb in build(release):
                sys.stdout.write(f"deb: {deb.relative_to(paths.CACHE)}\n")
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:] or list(paths.RELEASES)))
