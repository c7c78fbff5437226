# SPDX-License-Identifier: Apache-2.0
"""Each planted fault is found by its check, under its name, and is gone when the remedy was applied."""

import os

import pytest
from doctor import plants_engine, plants_host, plants_kernel
from doctor.plant import Plant, add_to_pool, machine, setting
from doctor_host import CONTENT, ENGINES, DoctorHost
from machine_tree import number_cores

from ovms_scaler.core.checks.catalogue import CHECKS
from ovms_scaler.core.checks.finding import Finding

PLANTS = plants_engine.PLANTS | plants_host.PLANTS | plants_kernel.PLANTS
EVERY_PLANT = pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())


def find(host: DoctorHost, plant: Plant) -> tuple[Finding, ...]:
    return host.find(plant.check, status=None if plant.check == "agent" else CONTENT)


def test_healthy_host_has_nothing_to_be_found(host: DoctorHost) -> None:
    assert host.find() == ()


@EVERY_PLANT
def test_planted_fault_is_found_and_its_remedy_works(host: DoctorHost, plant: Plant) -> None:
    plant.make(host)
    found = [one for one in find(host, plant) if plant.subject in one.subject and plant.reason in one.reason]
    assert found, find(host, plant)
    assert (found[0].check, found[0].result) == (plant.check, plant.result)
    assert plant.remedy in found[0].remedy
    plant.mend(host)
    assert find(host, plant) == ()


def test_files_of_root_among_those_of_the_proxy_are_found(host: DoctorHost) -> None:
    """Only root can make a file of another user, and nobody else leaves one there."""
    if os.geteuid() == ENGINES:
        return
    path = host.write("run/ovms-scaler-proxy/work/emerg.log", "")
    (found,) = host.find("proxy-files")
    assert found.subject == "/run/ovms-scaler-proxy/work/emerg.log"
    assert found.remedy == "chown -R ovms-scaler-proxy: /run/ovms-scaler-proxy/work"
    os.chown(path, ENGINES, ENGINES)
    assert host.find("proxy-files") == ()


def test_most_checks_have_a_plant() -> None:
    """The others need a card, a full disk, a wrong clock, or the agent: they have tests of their own."""
    elsewhere = {
        "placement", "gpu-driver", "gpu-access", "gpu-runtime", "gpu-unit", "proxy-files", "certificate",
        "disk", "clock", "kernel-log", "instances",
    }  # fmt: skip
    assert {plant.check for plant in PLANTS.values()} == set(CHECKS) - elsewhere


def test_instance_that_runs_needs_no_more_memory(host: DoctorHost) -> None:
    plants_engine.PLANTS["memory in use"].make(host)
    assert len(host.find("memory-free")) == 1
    group = "sys/fs/cgroup/ovms.slice/ovms@chat-numa0.service/cgroup.events"
    host.write(group, "populated 0\nfrozen 0\n")
    assert len(host.find("memory-free")) == 1
    host.write(group, "populated 1\nfrozen 0\n")
    assert host.find("memory-free") == ()


def test_balancing_is_harmless_where_nothing_is_bound_to_one_of_several_nodes(host: DoctorHost) -> None:
    setting("kernel/numa_balancing", 1)(host)
    assert host.find("numa-balancing") == ()
    machine(cores=number_cores({0: 4, 1: 4}))(host)
    assert len(host.find("numa-balancing")) == 1
    add_to_pool('placement = "whole"\n')(host)
    assert host.find("numa-balancing") == ()
