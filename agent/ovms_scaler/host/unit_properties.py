# SPDX-License-Identifier: Apache-2.0
"""The D-Bus properties of a unit, as the worker passes them on in JSON, turned into facts."""

from collections.abc import Mapping

from ovms_scaler.core.facts import ExecFacts, UnitFacts
from ovms_scaler.errors import HostError

# GetUnitFileState's answer for a unit that is not loaded -> the LoadState that loading it would give.
# What is not named here ("enabled", "static", ...) loads.
LOAD_STATES = {
    "masked": "masked",
    "masked-runtime": "masked",
    "not-found": "not-found",
    "bad": "bad-setting",
}

# The MPOL_ numbers of set_mempolicy(2) under the names of NUMAPolicy= in systemd.exec(5); -1 is "not set".
NUMA_POLICIES = {-1: "", 0: "default", 1: "preferred", 2: "bind", 3: "interleave", 4: "local"}


def parse_unit(unit: str, properties: Mapping[str, object]) -> UnitFacts:
    """Facts of a loaded unit from its properties, of any other from ``UnitFileState`` alone."""
    if "UnitFileState" in properties:
        state = LOAD_STATES.get(str(properties["UnitFileState"]), "loaded")
        return UnitFacts(unit=unit, load_state=state, active_state="inactive", sub_state="dead")
    # A unit that stopped keeps the id of its last invocation; one that never ran has none.
    return UnitFacts(
        unit=unit,
        load_state=str(properties["LoadState"]),
        active_state=str(properties["ActiveState"]),
        sub_state=str(properties["SubState"]),
        result=str(properties.get("Result", "success")),
        main_pid=parse_count(properties.get("MainPID", 0)),
        invocation_id=bytes(parse_counts(properties["InvocationID"])).hex(),
        exec_main_code=parse_count(properties.get("ExecMainCode", 0)),
        exec_main_status=parse_count(properties.get("ExecMainStatus", 0)),
        restarts=parse_count(properties.get("NRestarts", 0)),
        need_daemon_reload=bool(properties["NeedDaemonReload"]),
        active_enter_usec=parse_count(properties["ActiveEnterTimestampMonotonic"]),
        state_change_usec=parse_count(properties["StateChangeTimestampMonotonic"]),
    )


def parse_exec(properties: Mapping[str, object]) -> ExecFacts:
    """Facts of how systemd will run, or runs, a service. Raises HostError when it is another unit."""
    if "NUMAPolicy" not in properties:
        raise HostError("cannot read how systemd runs it: it is not a service")
    policy = parse_count(properties["NUMAPolicy"])
    commands = properties["ExecStart"]
    first = commands[0] if isinstance(commands, list) and commands else ("", [])
    return ExecFacts(
        cpu_affinity=parse_mask(properties["CPUAffinity"]),
        numa_policy=NUMA_POLICIES.get(policy, str(policy)),
        numa_mask=parse_mask(properties["NUMAMask"]),
        allowed_cpus=parse_mask(properties["AllowedCPUs"]),
        allowed_memory_nodes=parse_mask(properties["AllowedMemoryNodes"]),
        argv=parse_names(first[1]),
        drop_in_paths=parse_names(properties["DropInPaths"]),
    )


def parse_mask(value: object) -> frozenset[int]:
    """Bit n of byte n // 8 stands for CPU or node n, least significant first: a set as systemd sends it."""
    octets = parse_counts(value)
    return frozenset(
        index * 8 + bit for index, octet in enumerate(octets) for bit in range(8) if octet >> bit & 1
    )


def parse_count(value: object) -> int:
    """Raises HostError unless ``value`` is a whole number."""
    if not isinstance(value, int):
        raise HostError(f"cannot read a property of systemd: expected a whole number, not {value!r}")
    return value


def parse_counts(value: object) -> tuple[int, ...]:
    """Raises HostError unless ``value`` is a list of whole numbers."""
    return tuple(parse_count(item) for item in parse_items(value))


def parse_names(value: object) -> tuple[str, ...]:
    """Raises HostError unless ``value`` is a list."""
    return tuple(str(item) for item in parse_items(value))


def parse_items(value: object) -> list[object]:
    """Raises HostError unless ``value`` is a list."""
    if not isinstance(value, list):
        raise HostError(f"cannot read a property of systemd: expected a list, not {value!r}")
    return value
