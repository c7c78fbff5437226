# SPDX-License-Identifier: Apache-2.0
"""Whether the GPUs of the pools can be used: driver, access, runtime, and the unit that follows a card."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ovms_scaler.core.checks.finding import Finding, bad, good, or_good, unknown
from ovms_scaler.core.topology import Gpu, Topology

# What keeps a device for guests (driver-api/vfio.rst).
_FOR_GUESTS = ("vfio-pci", "pci-stub")
_NOT_USED = "no pool uses a GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """Of OpenCL: each .icd file with the library it names, and those libraries that are there.

    ``has_loader`` says that there is a libOpenCL.so.1, which programs link to.
    """

    icds: Mapping[str, str]
    libraries: frozenset[str]
    has_loader: bool


def find_used(addresses: Iterable[str], topology: Topology) -> tuple[Gpu, ...]:
    """The cards of these addresses that are on the PCI bus."""
    wanted = frozenset(addresses)
    return tuple(gpu for gpu in topology.gpus if gpu.address in wanted)


def judge_drivers(gpus: Iterable[Gpu], *, is_wanted: bool) -> tuple[Finding, ...]:
    check = "gpu-driver"
    if not is_wanted:
        return (good(check, "GPUs", _NOT_USED),)
    found = []
    for gpu in gpus:
        if gpu.render_node is not None:
            continue
        if gpu.driver is None:
            reason = "no driver is bound to it"
            remedy = f"dmesg | grep {gpu.address}; modprobe xe"
            note = "older cards need i915, and all of them their firmware"
        elif gpu.driver in _FOR_GUESTS:
            reason = f"the driver {gpu.driver} keeps it for guests"
            remedy = f"driverctl unset-override {gpu.address}"
            note = f'or leave it to them: gpu.exclude = ["{gpu.address}"]'
        else:
            reason = f"its driver {gpu.driver} gives it no render node"
            remedy, note = f"dmesg | grep -e {gpu.address} -e {gpu.driver}", ""
        found.append(bad(check, gpu.address, reason, remedy, note))
    return or_good(found, check, "GPUs", "each has a driver and a render node")


def judge_access(gpus: Iterable[Gpu], *, is_wanted: bool) -> tuple[Finding, ...]:
    check = "gpu-access"
    if not is_wanted:
        return (good(check, "GPUs", _NOT_USED),)
    found = []
    for gpu in gpus:
        node = gpu.render_node
        if node is not None and gpu.accessible is False:
            reason = f"the group render, in which instances are, may not read and write {node}"
            remedy = f"chgrp render {node} && chmod 660 {node}"
            note = "at boot udev's 50-udev-default.rules is to do it"
            found.append(bad(check, gpu.address, reason, remedy, note))
        elif node is not None and gpu.accessible is None:
            reason = f"the owner of {node} cannot be seen"
            found.append(unknown(check, gpu.address, reason, f"ls -l {node}; getent group render"))
    return or_good(found, check, "GPUs", "the group render may open each")


def judge_runtime(facts: RuntimeFacts, *, is_wanted: bool) -> tuple[Finding, ...]:
    check = "gpu-runtime"
    if not is_wanted:
        return (good(check, "OpenCL", _NOT_USED),)
    found = []
    intel = {file: library for file, library in facts.icds.items() if "intel" in f"{file} {library}".lower()}
    if not intel:
        reason = "no file of /etc/OpenCL/vendors names Intel's runtime: OpenVINO finds no GPU"
        found.append(bad(check, "OpenCL", reason, "apt install intel-opencl-icd"))
    found += [
        bad(
            check,
            file,
            f"it names {library}, which is not there",
            "apt install --reinstall intel-opencl-icd",
        )
        for file, library in intel.items()
        if library not in facts.libraries
    ]
    if not facts.has_loader:
        reason = "there is no libOpenCL.so.1, which the GPU plug-in of OpenVINO loads"
        found.append(bad(check, "OpenCL", reason, "apt install ocl-icd-libopencl1"))
    return or_good(found, check, "OpenCL", f"Intel's runtime is there: {', '.join(intel)}")


def device_unit(render_node: str) -> str:
    """The name of a device's unit, systemd.device(5)."""
    return f"{render_node.strip('/').replace('/', '-')}.device"


def judge_units(active: Mapping[str, bool], *, is_wanted: bool) -> tuple[Finding, ...]:
    """``active`` has each render node, and whether systemd knows it."""
    check = "gpu-unit"
    if not is_wanted:
        return (good(check, "GPUs", _NOT_USED),)
    found = [
        bad(
            check,
            node,
            f"systemd has no unit {device_unit(node)}: when the card is pulled, nobody stops its instance",
            "udevadm control --reload && udevadm trigger --action=change --subsystem-match=drm",
        )
        for node, is_active in active.items()
        if not is_active
    ]
    return or_good(found, check, "GPUs", "systemd has a unit for each render node")
