# SPDX-License-Identifier: Apache-2.0
"""Faults of the kernel's settings, the CPUs, and who else is on them."""

from doctor.plant import Plant, add_to_pool, both, machine, removing, setting, writing
from machine_tree import GIB, number_cores

from ovms_scaler.core.checks.finding import Result

PLANTS = {
    "no cgroup version 2": Plant(
        check="cgroups",
        make=removing("sys/fs/cgroup/cgroup.controllers"),
        subject="/sys/fs/cgroup",
        reason="not cgroup version 2",
        remedy="systemd.unified_cgroup_hierarchy",
        mend=writing("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory\n"),
    ),
    "memory controller off": Plant(
        check="cgroups",
        make=both(
            writing("sys/fs/cgroup/cgroup.controllers", "cpuset cpu\n"),
            writing("proc/cmdline", "root=/dev/sda1 cgroup_disable=memory quiet\n"),
        ),
        subject="memory",
        reason="the controller memory is not there",
        remedy="remove cgroup_disable=memory",
        mend=writing("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory\n"),
        result=Result.warning,
    ),
    "two services on the same cores": Plant(
        check="shared-cores",
        make=lambda host: host.write_process(99, "postgres", unit="postgresql.service", cpus="0-3"),
        subject="postgresql.service",
        reason="postgres (process 99) is bound to CPUs 0-3, of which 0-3 are for chat-numa0",
        remedy='reserve_cpus = "0-3"',
        mend=add_to_pool('reserve_cpus = "0-3"\n'),
        result=Result.warning,
    ),
    "engine of somebody else": Plant(
        check="other-engines",
        make=lambda host: host.write_process(99, "ovms", unit="old-ovms.service", cpus="0-7"),
        subject="old-ovms.service",
        reason="the agent did not start it",
        remedy="systemctl disable --now old-ovms.service",
        mend=removing("proc/99"),
        result=Result.warning,
    ),
    "CPU switched off": Plant(
        check="offline-cpus",
        make=machine(offline={3}),
        subject="CPUs 3",
        reason="switched off",
        remedy="chcpu -e 3",
        mend=machine(),
        result=Result.warning,
    ),
    "CPUs isolated": Plant(
        check="isolated-cpus",
        make=machine(isolated={2, 3}),
        subject="CPUs 2-3",
        reason="isolcpus=",
        remedy='reserve_cpus = "2-3"',
        mend=add_to_pool('reserve_cpus = "2-3"\n'),
        result=Result.warning,
    ),
    "slow governor": Plant(
        check="governor",
        make=writing("sys/devices/system/cpu/cpufreq/policy0/scaling_driver", "acpi-cpufreq\n"),
        subject="CPUs 0-3",
        reason="powersave of acpi-cpufreq",
        remedy="echo performance | tee /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
        mend=writing("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance\n"),
        result=Result.warning,
    ),
    "energy preferred": Plant(
        check="governor",
        make=writing("sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference", "power\n"),
        subject="CPUs 0-3",
        reason="to prefer 'power'",
        remedy="energy_performance_preference",
        mend=writing(
            "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference", "performance\n"
        ),
        result=Result.warning,
    ),
    "NUMA balancing": Plant(
        check="numa-balancing",
        make=both(machine(cores=number_cores({0: 4, 1: 4})), setting("kernel/numa_balancing", 1)),
        subject="kernel.numa_balancing",
        reason="it is 1",
        remedy="kernel.numa_balancing = 0",
        mend=setting("kernel/numa_balancing", 0),
        result=Result.warning,
    ),
    "zone reclaim": Plant(
        check="zone-reclaim",
        make=setting("vm/zone_reclaim_mode", 1),
        subject="vm.zone_reclaim_mode",
        reason="page cache",
        remedy="vm.zone_reclaim_mode = 0",
        mend=setting("vm/zone_reclaim_mode", 0),
        result=Result.warning,
    ),
    "strict overcommit": Plant(
        check="overcommit",
        make=setting("vm/overcommit_memory", 2),
        subject="vm.overcommit_memory",
        reason="it is 2",
        remedy="vm.overcommit_memory = 0",
        mend=setting("vm/overcommit_memory", 0),
        result=Result.warning,
    ),
    "huge pages for nobody": Plant(
        check="huge-pages",
        make=writing(
            "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", f"{8 * GIB >> 21}\n"
        ),
        subject="node 0",
        reason="8192 MiB",
        remedy="echo 0 | tee /sys/devices/system/node/node0/hugepages/*/nr_hugepages",
        mend=writing("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "0\n"),
        result=Result.warning,
    ),
    "engine in swap": Plant(
        check="swap",
        make=writing("sys/fs/cgroup/ovms.slice/memory.swap.current", f"{GIB}\n"),
        subject="ovms.slice",
        reason="1024 MiB",
        remedy="ovms-scalerctl restart --rolling",
        mend=writing("sys/fs/cgroup/ovms.slice/memory.swap.current", "0\n"),
        result=Result.warning,
    ),
    "files limited by the kernel": Plant(
        check="open-files",
        make=setting("fs/nr_open", 65536),
        subject="fs.nr_open",
        reason="ovms-scaler-proxy.service needs a limit of 524288",
        remedy="fs.nr_open = 1048576",
        mend=setting("fs/nr_open", 1048576),
    ),
    "short queue": Plant(
        check="listen-queue",
        make=setting("net/core/somaxconn", 128),
        subject="net.core.somaxconn",
        reason="it is 128",
        remedy="net.core.somaxconn = 4096",
        mend=setting("net/core/somaxconn", 4096),
        result=Result.warning,
    ),
}
