# SPDX-License-Identifier: Apache-2.0
"""A GPU is pulled out of a machine with four, under load, and put back; the machine is emulated."""

import json
import sys

from lab import vm_image
from lab.commands import LabError
from lab.demo import Traffic, ask, command, say, show_line, status, step
from lab.vm import Vm

MODEL = "demo/tiny-llama"
PULLED = "0000:42:00.0"
CONFIG = f"""\
[[pool]]                          # one instance on each NUMA node ...
name = "chat"
model_name = "{MODEL}"
model_path = "/srv/models/tiny"

[[pool]]                          # ... and one on each GPU, behind the same address
name = "card"
model_name = "{MODEL}"
model_path = "/srv/models/tiny"
placement = "gpu"
host_cpus_per_gpu = 1

[gpu]
vendors = ["0x1af4"]              # the virtual cards here; by default Intel's
"""


def main() -> int:
    try:
        with Vm.boot(vm_image.build()) as vm:
            show(vm)
    except LabError as error:
        sys.stderr.write(f"\ndemo: {error}\n")
        return 1
    return 0


def show(vm: Vm) -> None:
    """Every step, in order. Raises LabError at the first that does not hold."""
    step("A machine with four NUMA nodes and four GPUs, two of them on node 0 and two on node 2")
    show_line(f"booted in {vm.boot_sec:.0f} s with {vm.accelerator}; every processor in it is emulated, so")
    show_line("that times are some fifty times those of a real one. The engine is a stand-in for OVMS.")
    command(vm, "ovms-scalerctl", "topology")
    vm.write("/etc/ovms-scaler/config.toml", CONFIG)
    command(vm, "cat", "/etc/ovms-scaler/config.toml")
    command(vm, "systemctl", "enable", "--now", "ovms-scaler")
    wait_until_all_serve(vm)
    command(vm, "ovms-scalerctl", "status")
    show_isolation(vm)
    show_pull(vm)
    step("Done. The machine is gone, nothing was left behind.")


def wait_until_all_serve(vm: Vm) -> None:
    vm.wait_for("ovms-scalerctl status --json >/dev/null", 300, "every instance to serve")


def show_isolation(vm: Vm) -> None:
    step("Each process, as the kernel sees it: its CPUs, its memory, and the cards that it has open")
    rows = [("instance", "CPUs", "memory nodes", "GPU", "open render nodes")]
    entries = {entry["id"]: entry for entry in status(vm)["instances"]}
    for planned in ask(vm, "plan")["instances"]:
        pid = entries[planned["id"]]["pid"]
        lines = vm.read(f"/proc/{pid}/status").splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        nodes = vm.script(f"readlink /proc/{pid}/fd/* | grep ^/dev/dri | sort -u || true").split()
        cpus, memory = fields["Cpus_allowed_list"], fields["Mems_allowed_list"]
        gpus = ", ".join(planned["gpus"]) or "-"
        rows.append((planned["id"], cpus, memory, gpus, ", ".join(nodes) or "-"))
        if nodes != planned["render_nodes"] or fields["Cpus_allowed_list"] != planned["cpus"]:
            raise LabError(f"{planned['id']} is not where it was planned: {rows[-1]}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        show_line("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def show_pull(vm: Vm) -> None:
    step(f"GPU {PULLED} is pulled out while clients keep asking")
    pids = {entry["id"]: entry["pid"] for entry in status(vm)["instances"]}
    victim = f"card-gpu-{PULLED}"
    url = f"http://127.0.0.1:{vm.client_port(8000)}/v3"
    with Traffic(vm, requests=300, workers=8, url=url) as traffic:
        command(vm, "sh", "-c", f"echo 1 >/sys/bus/pci/devices/{PULLED}/remove")
        vm.wait_for(
            lambda: "is not there" in str(entry_of(vm, victim)["reason"]), 120, f"{victim} to be out"
        )
        command(vm, "ovms-scalerctl", "status", check=False)  # it ends with 1: one does not serve
        say("and put back:")
        command(vm, "sh", "-c", "echo 1 >/sys/bus/pci/rescan")
        wait_until_all_serve(vm)
    command(vm, "ovms-scalerctl", "status")
    say("What the clients saw. Until the engine of the pulled card is stopped, it answers with errors,")
    say("and answers that it had begun are cut; nothing else may be lost:")
    show_line(json.dumps(traffic.result))
    after = {entry["id"]: entry["pid"] for entry in status(vm)["instances"]}
    touched = sorted(name for name, pid in pids.items() if after[name] != pid)
    show_line(f"processes that are not the same as before: {', '.join(touched)}")
    if traffic.result["lost"] or traffic.result["errors"].keys() - {victim} or touched != [victim]:
        raise LabError("others were harmed")
    command(vm, "journalctl", "--unit=ovms-scaler", "--lines=12", "--no-pager", "--output=cat")


def entry_of(vm: Vm, name: str) -> dict[str, object]:
    return next(dict(entry) for entry in status(vm)["instances"] if entry["id"] == name)


if __name__ == "__main__":
    sys.exit(main())
