# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tier that needs NUMA nodes, udev and cards: one virtual machine, shared by all tests."""

import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from lab import vm_files, vm_image, vm_qemu
from lab.commands import LabError
from lab.vm import Vm

RESTORE = f"""
[ "$(ls -d {vm_files.CARDS} | wc -l)" = {sum(vm_qemu.CARDS.values())} ] || echo 1 >/sys/bus/pci/rescan
for online in $(grep --files-with-matches 0 /sys/devices/system/cpu/cpu*/online); do
    echo 1 >"$online"
done
"""
TIMES = pytest.StashKey[list[str]]()
# EX_TEMPFAIL of sysexits.h: the tests were not run to their end, and `make vm` runs them once more.
CRASHED = 75


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory, before pytest selects by mark."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.vm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the machine has to say to the report of a test that failed.

    When QEMU itself crashed no test can tell anything. (Seen of QEMU 7.2: while a card left it died of
    SIGSEGV in the thread of an emulated processor.)
    """
    report = yield
    if report.failed:
        for guest in Vm.live:
            if isinstance(guest, Vm) and (crash := guest.read_crash()):
                pytest.exit(f"{item.name}: {crash}", returncode=CRASHED)
            try:
                text = guest.diagnostics()
            except (LabError, OSError) as error:
                text = f"{error}\n{guest.console()}"
            report.sections.append((f"machine {guest.name!r}", text))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what took time, before the first test and in the machine."""
    for line in config.stash.get(TIMES, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def booted(pytestconfig: pytest.Config) -> Iterator[Vm]:
    """The virtual machine with the package; where it cannot run is an error, not a reason to skip."""
    vm_qemu.require_machine()
    begun = time.monotonic()
    image = vm_image.build()
    built_sec = time.monotonic() - begun
    with Vm.boot(image) as vm:
        times = f"image {built_sec:.0f} s, boot {vm.boot_sec:.0f} s with {vm.accelerator}"
        pytestconfig.stash[TIMES] = [f"virtual machine: {times}"]
        yield vm


@pytest.fixture
def times(pytestconfig: pytest.Config, booted: Vm) -> list[str]:
    """Lines to print at the end; times of an emulated machine tell of it, not of a real one."""
    del booted
    return pytestconfig.stash[TIMES]


@pytest.fixture
def vm(booted: Vm) -> Iterator[Vm]:
    """The same for one test: all cards and CPUs are there again after it."""
    try:
        yield booted
    finally:
        booted.script(RESTORE)
        booted.settle()
        cards, cpus = booted.script(
            f"ls -d {vm_files.CARDS} | wc -l; cat /sys/devices/system/cpu/online"
        ).split()
        assert (int(cards), cpus) == (sum(vm_qemu.CARDS.values()), f"0-{vm_qemu.CPUS - 1}")
