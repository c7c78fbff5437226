# SPDX-License-Identifier: Apache-2.0
"""One model server and the part of the machine that is its own."""

from dataclasses import dataclass

from ovms_scaler.core.spec import Memory

Cores = tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One model server and the part of the machine that is its own.

    ``cpus`` empty means unbound. ``memory`` is None where no memory policy is set; then ``memory_nodes`` is
    empty. ``inference_threads`` is the number of physical cores. ``gpus`` are PCI addresses in the order in
    which ``device`` counts them, ``missing_gpus`` those not on the PCI bus. ``problem`` says why it must not
    be started; while it ``is_waiting`` for a device, it has no unit either.
    """

    id: str
    pool: str
    node: int | None
    cpus: frozenset[int]
    memory: Memory | None
    memory_nodes: frozenset[int]
    inference_threads: int
    port: int
    weight: int
    device: str = "CPU"
    gpus: tuple[str, ...] = ()
    render_nodes: tuple[str, ...] = ()
    missing_gpus: tuple[str, ...] = ()
    is_waiting: bool = False
    problem: str | None = None
    hint: str | None = None

    @property
    def unit(self) -> str:
        return unit_name(self.id)


def unit_name(instance_id: str) -> str:
    return f"ovms@{instance_id}.service"
