# SPDX-License-Identifier: Apache-2.0
"""How long things take inside the virtual machine, from its own clock and journal; printed, never judged."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.vm import Vm
from system import agent_host


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One of the journal, with its time by CLOCK_MONOTONIC."""

    at_sec: float
    text: str


@dataclass(slots=True)
class Times:
    """Seconds from when the kernel was told to let a card go, or to look for it, by what was then done."""

    found: dict[str, list[float]] = field(default_factory=dict)

    def add_removal(self, vm: Vm, since_sec: float) -> None:
        """Note the removal that began at ``since_sec`` of the machine's clock; it must be over."""
        self._add(
            read_lines(vm, since_sec),
            since_sec,
            ("Stopping ovms@", "pulled: systemd stops the unit"),
            ("Reloading ovms-scaler-proxy", "pulled: its route is gone, the reload begins"),
            ("Reloaded ovms-scaler-proxy", "pulled: the reload is done"),
        )

    def add_return(self, vm: Vm, since_sec: float) -> None:
        """Note the return that began at ``since_sec``; the instance must be in rotation."""
        self._add(
            read_lines(vm, since_sec),
            since_sec,
            ("starting instance", "plugged: the agent starts the unit"),
            ("proxy changed", "plugged: in rotation"),
        )

    def lines(self) -> list[str]:
        """A line for each, with the median and the longest."""
        return [
            f"{what}: {statistics.median(found):.2f} s (median of {len(found)}, longest {max(found):.2f} s)"
            for what, found in self.found.items()
        ]

    def _add(self, lines: Sequence[Line], since_sec: float, *steps: tuple[str, str]) -> None:
        """Each step is how its line begins, and what it is called; they come one after the other."""
        at_sec = since_sec
        for begin, what in steps:
            at_sec = next(
                line.at_sec for line in lines if line.text.startswith(begin) and line.at_sec >= at_sec
            )
            self.found.setdefault(what, []).append(at_sec - since_sec)


def read_clock(vm: Vm) -> float:
    """Seconds of CLOCK_BOOTTIME, which is CLOCK_MONOTONIC where nothing sleeps; proc(5), uptime."""
    return float(vm.read("/proc/uptime").split()[0])


def read_lines(vm: Vm, since_sec: float) -> list[Line]:
    """What systemd and the agent said from ``since_sec`` on."""
    units = [f"--unit={unit}" for unit in (agent_host.AGENT, agent_host.PROXY, "ovms@*")]
    shown = vm.run("journalctl", "--output=json", "--lines=200", "--no-pager", *units).stdout
    entries = [json.loads(line) for line in shown.splitlines()]
    lines = [
        Line(at_sec=int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6, text=str(entry["MESSAGE"]))
        for entry in entries
    ]
    return [line for line in lines if line.at_sec >= since_sec]
