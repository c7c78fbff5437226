# SPDX-License-Identifier: Apache-2.0
"""Builds and caches what virtual machines boot from: a kernel, its first file system, and a disk.

The disk is the host image with the package installed (installed.py), the modules of the kernel, and our own
files (vm_files.py). `python -m lab.vm_image` builds it if it is missing.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import image, installed, paths, vm_files

# Part of every key: change it when what is done here changes without an input changing.
RECIPE = "1"
RELEASE = "bookworm"
DISK_BYTES = 4 << 30
# Loaded before there is a root file system, those they depend on included.
EARLY_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What QEMU starts, and the directory with the modules as a layer of the disk."""

    vmlinuz: Path
    initrd: Path
    layer: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class VmImage:
    """Everything a virtual machine boots from; nobody writes to the disk."""

    kernel: Kernel
    disk: Path


def build() -> VmImage:
    """The image with the package of the working tree, from the cache or built now (root, package mirror)."""
    kernel = build_kernel()
    return VmImage(kernel=kernel, disk=build_disk(kernel, installed.build(RELEASE)))


def build_kernel() -> Kernel:
    """The kernel of the release."""
    wanted = paths.read_package_list("vm")
    key = hash_of(RECIPE, RELEASE, vm_files.INIT, *wanted, *EARLY_MODULES)
    directory = paths.CACHE / "vm" / f"kernel-{key}"
    with paths.lock("vm-kernel"):
        if not directory.exists():
            sys.stderr.write("vm: unpacking the kernel\n")
            image.remove_trees(directory.parent, lambda name: name.startswith("kernel-"))
            partial = directory.with_name(directory.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            unpack_kernel(wanted, partial)
            partial.rename(directory)
    return Kernel(vmlinuz=directory / "vmlinuz", initrd=directory / "initrd", layer=directory / "layer")


def unpack_kernel(wanted: list[str], target: Path) -> None:
    """Fetch the packages and keep of them the kernel, its modules, and what the initrd is made of."""
    target.mkdir(parents=True)
    unpacked = target / "unpacked"
    image.run_mmdebstrap(RELEASE, wanted, unpacked, ["--variant=extract"])
    (vmlinuz,) = (unpacked / "boot").glob("vmlinuz-*")
    version = vmlinuz.name.removeprefix("vmlinuz-")
    modules = target / "layer" / "usr" / "lib" / "modules"
    modules.mkdir(parents=True)
    (unpacked / "lib" / "modules" / version).rename(modules / version)
    vmlinuz.rename(target / "vmlinuz")
    subprocess.run(["depmod", "--basedir", str(target / "layer" / "usr"), version], check=True)
    make_initrd(modules / version, unpacked / "bin" / "busybox", target)
    shutil.rmtree(unpacked)


def make_initrd(modules: Path, busybox: Path, target: Path) -> None:
    """Write the first file system: Debian's own, with udev in it, takes seconds more to get through."""
    tree = target / "early"
    for name in ("bin", "dev", "modules", "proc", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy2(busybox, tree / "bin" / "busybox")
    for index, module in enumerate(read_dependencies(modules, EARLY_MODULES)):
        shutil.copy(module, tree / "modules" / f"{index:02}-{module.name}")
    (tree / "init").write_text(vm_files.INIT)
    (tree / "init").chmod(0o755)
    archive = "find . | ./bin/busybox cpio -o -H newc 2>/dev/null >../initrd"
    subprocess.run(["sh", "-c", archive], check=True, cwd=tree)
    shutil.rmtree(tree)


def read_dependencies(modules: Path, names: Sequence[str]) -> list[Path]:
    """The files of the named modules of a kernel, each after those it needs (modprobe(8))."""
    files: dict[Path, None] = {}
    base = ["modprobe", "--dirname", str(modules.parents[2]), "--set-version", modules.name]
    for name in names:
        command = [*base, "--show-depends", name]
        lines = subprocess.run(command, check=True, text=True, capture_output=True).stdout.splitlines()
        files |= dict.fromkeys(Path(line.split()[1]) for line in lines if line.startswith("insmod "))
    return list(files)


def build_disk(kernel: Kernel, base: image.Image) -> Path:
    """The disk with all layers and our own files."""
    files = vm_files.read_files()
    content = [f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items())]
    key = hash_of(
        RECIPE, base.key, kernel.layer.parent.name, *content, *vm_files.MASKED, *vm_files.MASKED_GENERATORS
    )
    directory = paths.CACHE / "vm" / f"disk-{key}"
    with paths.lock("vm-disk"):
        if not directory.exists():
            sys.stderr.write("vm: making the disk\n")
            image.remove_trees(directory.parent, lambda name: name.startswith("disk-"))
            partial = directory.with_name(directory.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            with tempfile.TemporaryDirectory(dir=directory.parent) as layer:
                vm_files.write_layer(Path(layer), files)
                make_disk(partial / "disk", [*base.layers, kernel.layer, Path(layer)])
            partial.rename(directory)
    return directory / "disk"


def make_disk(disk: Path, layers: Sequence[Path]) -> None:
    """Run vm_disk.py."""
    mount_point = disk.with_name("root")
    mount_point.mkdir()
    program = [sys.executable, "-m", "lab.vm_disk", str(disk), str(DISK_BYTES), str(mount_point)]
    isolate = ["unshare", "--mount", "--propagation=private"]
    command = [*isolate, *program, *(str(layer) for layer in layers)]
    done = subprocess.run(command, cwd=paths.LAB.parent, text=True, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"cannot make a disk: {' '.join(command)} said:\n{done.stderr[-4000:]}")
    mount_point.rmdir()


def hash_of(*parts: str) -> str:
    """Names the content of all parts together."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


if __name__ == "__main__":
    sys.stdout.write(f"vm: {build().disk.parent.name}\n")
