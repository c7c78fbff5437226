# SPDX-License-Identifier: Apache-2.0
"""What an instance computes with, read together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ovms_scaler.core.instance import Instance
from ovms_scaler.core.progress import Use


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """Reads by unit, and by the PCI addresses of the cards; without readers nothing is known."""

    read_cpu_sec: Callable[[str], float | None] = lambda _: None
    read_gpu_idle_sec: Callable[[Iterable[str]], tuple[float, ...] | None] = lambda _: None

    def read(self, instance: Instance) -> Use:
        """CPU time and cards; reading wakes a card that is asleep, so only when there is a reason."""
        idle = self.read_gpu_idle_sec(instance.gpus) if instance.gpus else ()
        return Use(cpu_sec=self.read_cpu_sec(instance.unit), gpu_idle_sec=idle)

    def read_cpu(self, instance: Instance) -> Use:
        """CPU time; of the cards it is unknown."""
        return Use(cpu_sec=self.read_cpu_sec(instance.unit), gpu_idle_sec=None if instance.gpus else ())
