# SPDX-License-Identifier: Apache-2.0
"""How QEMU is called: the machine it shows to the guest, and whether this machine can run it at all."""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil
from lab import paths, vm_channel, vm_files
from lab.commands import LabError
from lab.vm_image import VmImage

PROGRAM = "qemu-system-x86_64"
NODES = 4
CPUS_PER_NODE = 3
CPUS = NODES * CPUS_PER_NODE
# Nodes that have cards, and how many each.
CARDS = {0: 2, 2: 2}
# A node must offer what the agent asks of one for an instance, 1 GiB and the model.
NODE_BYTES = 1280 << 20
# More than QEMU was seen to take, 1.3 GiB: pages that the guest never touches are not there.
NEEDED_BYTES = 3 << 30
# KVM that works prints the mark after 2 s.
PROBE_SEC = 15
EMULATED = "tcg,thread=multi"
# Five levels of page tables and wide vectors cost a tenth of the time when they are emulated.
EMULATED_CPU = "max,la57=off,avx=off,avx2=off"


def require_machine() -> None:
    """Raises LabError with all that is missing when this machine cannot run the virtual machine."""
    wrong = []
    if platform.machine() != "x86_64":
        wrong.append(f"it is {platform.machine()}, the guest is x86_64 (hint: use another machine)")
    if shutil.which(PROGRAM) is None:
        wrong.append(f"there is no {PROGRAM} (hint: 'make setup' as root installs qemu-system-x86)")
    if shutil.which("setpriv") is None:
        wrong.append("there is no setpriv (hint: 'make setup' as root installs util-linux)")
    free = psutil.virtual_memory().available
    if free < NEEDED_BYTES:
        wrong.append(f"{free >> 20} of {NEEDED_BYTES >> 20} MiB of memory are free (hint: end what uses it)")
    if wrong:
        raise LabError("this machine cannot run the virtual machine of the lab:\n" + "\n".join(wrong))


def hardware(accelerator: str) -> list[str]:
    """The options for processors, memory, nodes and cards."""
    options = ["-machine", "q35,sata=off,smbus=off,i8042=off", "-accel", accelerator]
    options += ["-cpu", EMULATED_CPU if accelerator == EMULATED else "host"]
    options += ["-smp", f"{CPUS},sockets=2,cores={CPUS // 2},threads=1", "-m", str(NODES * NODE_BYTES >> 20)]
    for node in range(NODES):
        first = node * CPUS_PER_NODE
        options += ["-object", f"memory-backend-ram,id=m{node},size={NODE_BYTES}"]
        options += ["-numa", f"node,nodeid={node},memdev=m{node},cpus={first}-{first + CPUS_PER_NODE - 1}"]
    slot = 0
    for bridge, (node, cards) in enumerate(CARDS.items()):
        bus = f"pxb{bridge}"
        options += ["-device", f"pxb-pcie,id={bus},bus_nr={32 * (bridge + 1)},bus=pcie.0,numa_node={node}"]
        for _ in range(cards):
            slot += 1
            options += ["-device", f"pcie-root-port,id=rp{slot},bus={bus},slot={slot},io-reserve=0"]
            options += ["-device", f"virtio-gpu-pci,id=card{slot},bus=rp{slot}"]
    return options


def command(image: VmImage, accelerator: str, append: str = "") -> list[str]:
    """The command line that boots `image`. The guest's console is QEMU's standard output.

    A disk without bus=pcie.0 would go behind an expander bridge, which refuses it.
    """
    options = [PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "none"]
    options += [*hardware(accelerator), "-serial", "stdio"]
    options += ["-drive", f"file={escape(image.disk)},if=none,id=disk,format=raw,snapshot=on"]
    options += ["-device", "virtio-blk-pci,drive=disk,bus=pcie.0"]
    options += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:{vm_channel.GUEST_PORT}"]
    options += ["-device", "virtio-net-pci,netdev=net,bus=pcie.0,romfile="]
    options += ["-kernel", str(image.kernel.vmlinuz), "-initrd", str(image.kernel.initrd)]
    words = "console=ttyS0 quiet loglevel=4 mitigations=off nowatchdog net.ifnames=0 systemd.show_status=no"
    # To wait for twelve emulated CPUs to pass by is slow. Cards are for inference: no text console on them.
    words += " rcupdate.rcu_expedited=1 drm_kms_helper.fbdev_emulation=0"
    return [*options, "-append", f"{words} {append}"]


def escape(path: Path) -> str:
    """A path in an option of QEMU, where a comma ends the value."""
    return str(path).replace(",", ",,")


def start(argv: Sequence[str], console: Path, control: socket.socket) -> "subprocess.Popen[bytes]":
    """Start QEMU with its console in a file; the kernel kills it when this process is killed (prctl(2))."""
    monitor = ["-chardev", f"socket,id=qmp,fd={control.fileno()}", "-mon", "chardev=qmp,mode=control"]
    with console.open("ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv, *monitor],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[control.fileno()],
            start_new_session=True,
        )


class Monitor:
    """QEMU's control socket (QMP)."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.connection.settimeout(30)
        self.reader = connection.makefile("rb")
        self.ask("qmp_capabilities")

    def ask(self, name: str, **arguments: object) -> object:
        """What a command returned. Raises LabError when it failed, or QEMU ended."""
        self.connection.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
        for line in self.reader:
            answer = json.loads(line)
            if "error" in answer:
                raise LabError(f"QEMU refused {name} {arguments}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise LabError(f"QEMU ended before it answered {name}")

    def ask_human(self, line: str) -> str:
        """What a command of the monitor for people printed."""
        return str(self.ask("human-monitor-command", **{"command-line": line}))

    def read_forwards(self) -> dict[int, int]:
        """Ports of 127.0.0.1 by the port of the guest that they lead to."""
        listed = re.findall(r"HOST_FORWARD\].* (\d+) +10\.0\.2\.15 +(\d+) ", self.ask_human("info usernet"))
        return {int(inside): int(outside) for outside, inside in listed}

    def close(self) -> None:
        self.reader.close()
        self.connection.close()


def choose_accelerator(image: VmImage) -> str:
    """KVM if the kernel gets to its first process with it, else emulation; remembered until the next boot.

    /dev/kvm may be there and QEMU start, and yet the guest not run.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return EMULATED
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with paths.lock("vm-probe"):
        memory = paths.CACHE / "vm" / "accelerator"
        if not memory.exists() or memory.read_text().split()[0] != boot:
            memory.write_text(f"{boot} {'kvm' if probe_kvm(image) else EMULATED}\n")
        return memory.read_text().split()[1]


def probe_kvm(image: VmImage) -> bool:
    """Whether the kernel's first process runs, within PROBE_SEC."""
    argv = command(image, "kvm", "lab.probe")
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_SEC,
        )
    except subprocess.TimeoutExpired:
        return False
    return vm_files.PROBE_MARK.encode() in done.stdout
