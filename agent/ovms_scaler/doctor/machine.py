# SPDX-License-Identifier: Apache-2.0
"""Gathers what is to be known of the machine: memory, CPUs, GPUs, ports, and who else is there."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from ovms_scaler.core.checks import gpu, kernel, model, neighbours, nginx, port, system
from ovms_scaler.core.checks.finding import Finding, unknown
from ovms_scaler.core.checks.nginx import NginxFacts
from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.core.engine import render_environment
from ovms_scaler.core.gpus import ON_GPUS
from ovms_scaler.core.nginx import ProxySettings
from ovms_scaler.core.spec import ProxyMode
from ovms_scaler.core.topology import Gpu, Topology
from ovms_scaler.doctor.setting import PROXY_USER, Setting
from ovms_scaler.doctor.units import read_open_files, read_units, show_active
from ovms_scaler.errors import HostError
from ovms_scaler.host import kernel_settings, unit_files
from ovms_scaler.host.accounts import find_foreign
from ovms_scaler.host.listeners import read_listeners, read_processes
from ovms_scaler.host.processes import read_process
from ovms_scaler.host.programs import run_program

NGINX = "/usr/sbin/nginx"
_STREAM_MODULE = ProxySettings(worker_processes=1, worker_connections=1).stream_module
_PROXY_DIRECTORIES = (
    "/run/ovms-scaler-proxy/work",
    "/var/cache/ovms-scaler-proxy",
    "/var/cache/ovms-scaler-proxy/client_body",
    "/var/cache/ovms-scaler-proxy/proxy",
)


def _topology(setting: Setting) -> Topology:
    if setting.topology is None:
        raise HostError(setting.troubles.get("topology", "the machine cannot be read"))
    return setting.topology


def examine_memory(setting: Setting) -> Iterator[Finding]:
    topology = _topology(setting)
    yield from model.judge_devices(setting.placed)
    yield from model.judge_fit(setting.placed, topology)
    running = kernel_settings.read_running(setting.root)
    yield from model.judge_free(setting.placed, running, kernel_settings.read_free_memory(setting.root))


def examine_gpus(setting: Setting) -> Iterator[Finding]:
    """The cards that instances are to be on, those that wait for a driver included."""
    wanted = any(pool.placement in ON_GPUS for pool in setting.spec.pool)
    gpus = _used_gpus(setting)
    yield from gpu.judge_drivers(gpus, is_wanted=wanted)
    yield from gpu.judge_access(gpus, is_wanted=wanted)
    libraries = render_environment(setting.spec.pool[0], setting.engine) if setting.spec.pool else {}
    facts = unit_files.read_opencl(libraries.get("LD_LIBRARY_PATH", ""), setting.root)
    yield from gpu.judge_runtime(facts, is_wanted=wanted)
    nodes = [one.render_node for one in gpus if one.render_node is not None]
    units = {node: gpu.device_unit(node) for node in nodes}
    active = show_active(units.values(), setting.root) if wanted and units else frozenset()
    yield from gpu.judge_units({node: unit in active for node, unit in units.items()}, is_wanted=wanted)


def _used_gpus(setting: Setting) -> tuple[Gpu, ...]:
    instances = setting.target.instances if setting.target is not None else ()
    return gpu.find_used((address for one in instances for address in one.gpus), _topology(setting))


def examine_ports(setting: Setting) -> Iterator[Finding]:
    uses = setting.uses
    yield from port.judge_ports(uses, read_listeners({use.port for use in uses}, setting.root))
    handed_out, reserved = kernel_settings.read_port_range(setting.root)
    yield from port.judge_ephemeral(uses, handed_out, reserved)


def examine_nginx(setting: Setting) -> Iterator[Finding]:
    ran = run_program([NGINX, "-V"], setting.root)
    facts = NginxFacts(
        program=NGINX,
        status=ran.status,
        output=ran.output,
        refused=ran.refused,
        modules=unit_files.list_modules(setting.root, str(PurePosixPath(_STREAM_MODULE).parent)),
    )
    yield nginx.judge_program(facts)
    proxy = setting.spec.proxy
    yield from nginx.judge_modules(
        facts,
        stream_module=_STREAM_MODULE,
        needs_stream=proxy.mode is ProxyMode.stream,
        needs_tls=proxy.tls_certificate is not None,
    )


def examine_sites(setting: Setting) -> Iterator[Finding]:
    found = [unit for unit in read_units(("nginx.service",), setting.root) if unit.load_state == "loaded"]
    is_started = any(
        unit.active_state in ("active", "reloading") or unit.file_state.startswith("enabled")
        for unit in found
    )
    yield from port.judge_sites(setting.uses, unit_files.read_sites(setting.root), is_started=is_started)


def examine_proxy_files(setting: Setting) -> Iterator[Finding]:
    account = setting.accounts.users.get(PROXY_USER)
    if account is None:
        yield unknown("proxy-files", "proxy", f"there is no user {PROXY_USER!r}", "see accounts")
        return
    try:
        foreign = find_foreign(_PROXY_DIRECTORIES, account.uid, setting.root)
    except PermissionError as error:
        yield unknown("proxy-files", "proxy", f"{error.filename} may not be listed by this user")
        return
    yield from nginx.judge_files(foreign, PROXY_USER)


def examine_kernel(setting: Setting) -> Iterator[Finding]:
    topology, facts = _topology(setting), kernel_settings.read_kernel(setting.root)
    is_bound = any(one.instance.memory is not None for one in setting.placed)
    reserved = [parse_cpu_list(pool.reserve_cpus) for pool in setting.spec.pool]
    yield kernel.judge_offline(facts, topology)
    yield kernel.judge_isolated(topology, reserved)
    yield from kernel.judge_governors(facts)
    yield kernel.judge_balancing(facts, topology, is_bound=is_bound)
    yield kernel.judge_reclaim(facts)
    yield kernel.judge_overcommit(facts)
    yield from kernel.judge_huge(facts, topology)
    yield kernel.judge_swap(facts)
    yield from kernel.judge_files(facts, read_open_files(setting))
    yield kernel.judge_queue(facts)
    controllers = kernel_settings.read_controllers(setting.root)
    yield from system.judge_cgroups(controllers, kernel_settings.read_command_line(setting.root))


def examine_neighbours(setting: Setting) -> Iterator[Finding]:
    processes = read_processes(setting.root)
    instances = [one.instance for one in setting.placed]
    first = read_process(1, setting.root)
    everywhere = first.cpus_allowed if first is not None else frozenset()
    yield from neighbours.judge_cores(processes, instances, everywhere)
    yield from neighbours.judge_engines(processes, PurePosixPath(setting.engine.binary).name)
