# SPDX-License-Identifier: Apache-2.0
"""Files of a virtual machine that are not from a package: what makes it start fast and take commands."""

from pathlib import Path

from lab import paths, vm_channel

# Runs as the kernel's first process. "lab.probe" on the kernel's command line asks whether it gets here.
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
case "$($b cat /proc/cmdline)" in *lab.probe*)
    echo LAB-PROBE
    $b poweroff -f
esac
for module in /modules/*; do
    $b insmod "$module"
done
while [ ! -b /dev/vda ]; do
    $b usleep 10000
done
$b mount -t ext4 -o noatime /dev/vda /root
$b mount -o move /dev /root/dev
$b umount /proc
exec $b switch_root /root /usr/lib/systemd/systemd
"""
PROBE_MARK = "LAB-PROBE"

# The address that QEMU's user network gives to a guest, which forwarded connections arrive at.
SERVICE = f"""[Unit]
Description=Commands from outside
DefaultDependencies=no
After=systemd-tmpfiles-setup.service
Before=sysinit.target

[Service]
Type=exec
ExecStartPre=/usr/sbin/ip address add 10.0.2.15/24 dev eth0
ExecStartPre=/usr/sbin/ip link set eth0 up
ExecStart=/usr/bin/python3 -I -S /usr/local/lib/lab/vm_guest.py {vm_channel.GUEST_PORT}
TasksMax=infinity

[Install]
WantedBy=sysinit.target
"""

# How the kernel says that a card can be recovered ("Device Wedging" in its Documentation/gpu/drm-uapi.rst).
WEDGED = ("none", "rebind", "bus-reset", "rebind,bus-reset", "vendor-specific", "unknown")


def encode_wedged(methods: str) -> str:
    """In letters only: the kernel takes nothing else in an event made by hand."""
    return "".join(letter for letter in methods if letter.isalpha())


# Nobody can make the kernel say WEDGED=, but it passes on what is written to a uevent file, with a prefix
# (Documentation/ABI/testing/sysfs-uevent). These rules make the one of the other, so that udev reports it.
UDEV_RULES = "".join(
    f'SUBSYSTEM=="drm", ENV{{SYNTH_ARG_WEDGED}}=="{encode_wedged(methods)}", ENV{{WEDGED}}="{methods}"\n'
    for methods in WEDGED
)

# Loaded for what processor and chipset offer, and of no use here; each costs half a second when emulated.
UNWANTED_MODULES = (
    "acpi_cpufreq",
    "aesni_intel",
    "button",
    "crc32_pclmul",
    "crct10dif_pclmul",
    "efi_pstore",
    "evdev",
    "ghash_clmulni_intel",
    "i2c_i801",
    "iTCO_wdt",
    "kvm_amd",
    "kvm_intel",
    "lpc_ich",
    "pcspkr",
    "powernow_k8",
    "psmouse",
    "qemu_fw_cfg",
    "serio_raw",
    "sha1_ssse3",
    "sha256_ssse3",
    "sha512_ssse3",
)

FILES = {
    "etc/systemd/system/lab.service": SERVICE,
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRateLimitBurst=0\n",
    "etc/udev/rules.d/10-lab.rules": UDEV_RULES,
    # Without it systemd takes each boot for the first and enables what every package would like.
    "etc/machine-id": "6f766d732d7363616c65722d6c616221\n",
    "etc/hostname": "vm\n",
    "etc/fstab": "",
    "etc/modprobe.d/lab.conf": "".join(f"blacklist {name}\n" for name in UNWANTED_MODULES),
}
# What a start can do without. The administrator's nginx would take port 80, and a getty the console.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "kmod-static-nodes.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "nginx.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysusers.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
)
# Programs that systemd runs at its start and at each daemon-reload.
MASKED_GENERATORS = (
    "cryptsetup",
    "debug",
    "fstab",
    "getty",
    "gpt-auto",
    "hibernate-resume",
    "integritysetup",
    "rc-local",
    "run",
    "system-update",
    "sysv",
    "veritysetup",
)
# What every card has while its driver has it (for the shell inside).
CARDS = "/sys/class/drm/renderD*"
STANDIN = "opt/ovms/lib/python/lab/standin/ovms_standin"


def read_files() -> dict[str, bytes]:
    """Every file by its path without the leading slash: ours, the stand-in and its model."""
    files = {name: text.encode() for name, text in FILES.items()}
    trees = {
        STANDIN: paths.LAB / "standin" / "ovms_standin",
        "srv/models/tiny": paths.LAB / "standin" / "model",
    }
    for target, source in trees.items():
        files |= {f"{target}/{path.name}": path.read_bytes() for path in source.iterdir() if path.is_file()}
    files["opt/ovms/bin/ovms"] = (paths.LAB / "standin" / "bin" / "ovms").read_bytes()
    files["usr/local/lib/lab/vm_guest.py"] = (paths.LAB / "vm_guest.py").read_bytes()
    return files


def write_layer(directory: Path, files: dict[str, bytes]) -> None:
    """Write the files, and mask the units, in a directory that becomes a layer of the disk."""
    directory.chmod(0o755)
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (directory / "opt/ovms/bin/ovms").chmod(0o755)
    units = directory / "etc/systemd/system"
    generators = units.with_name("system-generators")
    generators.mkdir()
    masks = [units / unit for unit in MASKED]
    masks += [generators / f"systemd-{name}-generator" for name in MASKED_GENERATORS]
    for mask in masks:
        mask.symlink_to("/dev/null")
    wants = units / "sysinit.target.wants"
    wants.mkdir()
    (wants / "lab.service").symlink_to("/etc/systemd/system/lab.service")
