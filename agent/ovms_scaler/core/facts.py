# SPDX-License-Identifier: Apache-2.0
"""What was observed of units, processes and engines at one instant."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ovms_scaler.core.orders import Orders
from ovms_scaler.core.wedge import Wedge


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFacts:
    """A unit as systemd's manager sees it; the fields are D-Bus properties, org.freedesktop.systemd1(5).

    A unit that systemd has not loaded has ``load_state`` "not-found" or "loaded" and ``active_state``
    "inactive". ``main_pid`` is 0 and ``invocation_id`` empty when nothing runs. Times are microseconds of
    CLOCK_MONOTONIC, 0 for never.
    """

    unit: str
    load_state: str
    active_state: str
    sub_state: str
    result: str = "success"
    main_pid: int = 0
    invocation_id: str = ""
    exec_main_code: int = 0
    exec_main_status: int = 0
    restarts: int = 0
    need_daemon_reload: bool = False
    active_enter_usec: int = 0
    state_change_usec: int = 0

    @property
    def is_running(self) -> bool:
        """True from the moment a start is under way until the last process has gone."""
        return self.active_state in ("active", "activating", "deactivating", "reloading", "refreshing")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecFacts:
    """How systemd understood a service's placement, read back over D-Bus (org.freedesktop.systemd1(5)).

    ``numa_policy`` is the name that systemd.exec(5) uses ("bind", "preferred", "default", ...);
    ``argv`` is the first ExecStart command line after systemd's own parsing.
    """

    cpu_affinity: frozenset[int]
    numa_policy: str
    numa_mask: frozenset[int]
    allowed_cpus: frozenset[int]
    allowed_memory_nodes: frozenset[int]
    argv: tuple[str, ...]
    drop_in_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """A process as the kernel confines it: Cpus_allowed_list and Mems_allowed_list of proc_pid_status(5)."""

    pid: int
    cpus_allowed: frozenset[int]
    memory_nodes_allowed: frozenset[int]


class Canary(StrEnum):
    """What became of the request for one token."""

    answered = "answered"
    refused = "refused"  # with an error, though the request was good
    silent = "silent"  # no answer before the deadline
    lost = "lost"  # there was no connection, which says nothing: probes tell that


class Probe(StrEnum):
    """What one look at an engine's REST port showed."""

    refused = "refused"  # nobody listens: starting, or gone
    silent = "silent"  # no answer before the deadline
    nonsense = "nonsense"  # an answer that is not what OVMS documents
    loading = "loading"
    failed = "failed"  # OVMS will not try again by itself
    available = "available"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The verdict on one engine process (``invocation_id``) and how long it has held.

    ``failures`` counts consecutive probes that did not show "available" since one did; ``warmed`` is True
    once a generation was answered; ``detail`` is a sentence for people. ``works`` says whether it computed
    while the last probe waited, or may have; None when nothing is known of that. ``fault`` is why it is
    not believed to infer although it may answer probes, "" for no fault. ``doubt`` is why one that was out
    of rotation does not come back yet, though all is well. ``faulty_since_sec`` (CLOCK_MONOTONIC) is when
    failures or fault began.
    """

    invocation_id: str
    probe: Probe
    warmed: bool = False
    failures: int = 0
    detail: str = ""
    works: bool | None = None
    fault: str = ""
    doubt: str = ""
    faulty_since_sec: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """All that is known of one instance at one instant; absent sources are None."""

    unit: UnitFacts | None = None
    exec: ExecFacts | None = None
    process: ProcessFacts | None = None
    health: Health | None = None
    files: Mapping[str, str] = field(
        default_factory=dict
    )  # what its files on disk say now, by absolute path
    started: bool = False  # it was seen running since the last boot and we did not stop it
    connections: int | None = None  # the proxy's TCP connections to its port
    has_lost_device: bool = False  # it runs, and a device of its was taken away since it started
    job: bool = False  # a start or stop that the agent asked for is under way
    repairs: tuple[float, ...] = ()  # when it was killed to repair it, CLOCK_MONOTONIC seconds
    crashes: tuple[float, ...] = ()  # when it ended by itself and systemd started it again, likewise
    outlived: tuple[str, ...] = ()  # what it was started from and has changed since: "program", "model"
    start_error: str = ""  # what became of the agent's last start, "" when it succeeded
    since_start_sec: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFacts:
    """The proxy: its files by path below its directory, and the generation that answers, None for none.

    ``error`` is what the last attempt to install said, "" when it took; ``refused`` the generation it
    was about. ``old_workers`` are processes that stay only for requests begun before a reload, and
    ``cut_requests`` those that were cut as their time was over, since the agent has started.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    generation: str | None = None
    unit: UnitFacts | None = None
    started: bool = False
    error: str = ""
    refused: str = ""
    old_workers: int = 0
    cut_requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The observed world at one instant.

    ``target`` is ovms.target, None when systemd did not answer; ``target_started`` says that it was
    seen active since the last boot. ``since_reload_sec`` counts from the proxy's last successful
    installation. ``wedges`` are by PCI address; ``now_sec`` is CLOCK_MONOTONIC in seconds, and
    ``observed_sec`` when the look at units began: what was done later may not be in it.
    """

    instances: Mapping[str, InstanceFacts] = field(default_factory=dict)
    target: UnitFacts | None = None
    target_started: bool = False
    proxy: ProxyFacts = field(default_factory=ProxyFacts)
    since_reload_sec: float = float("inf")
    since_refusal_sec: float = float("inf")
    wedges: Mapping[str, Wedge] = field(default_factory=dict)
    orders: Orders = field(default_factory=Orders)
    now_sec: float = 0.0
    observed_sec: float = 0.0
