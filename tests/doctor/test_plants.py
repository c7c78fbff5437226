# SPDX-License-Identifier: Apache-2.0
"""Each planted fault is found by its check, under its name, and gone when its remedy was applied."""

import os

import pytest
from doctor import plants_engine, plants_host, plants_kernel
from doctor.plant import Plant, add_to_pool, machine, setting
from doctor_host import CONTENT, ENGINES, DoctorHost
from machine_tree import number_cores
from remedies import check_remedy, type_remedy

from ovms_scaler.core.checks.catalogue import CHECKS
from ovms_scaler.core.checks.finding import Finding

PLANTS = plants_engine.PLANTS | plants_host.PLANTS | plants_kernel.PLANTS
EVERY_PLANT = pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())


def find(host: DoctorHost, plant: Plant) -> tuple[Finding, ...]:
    return host.find(plant.check, status=None if plant.check == "agent" else CONTENT)


def test_healthy_host_has_nothing_to_be_found(host: DoctorHost) -> None:
    assert host.find() == ()


@EVERY_PLANT
def test_planted_fault_is_found_with_a_remedy_that_can_be_typed(host: DoctorHost, plant: Plant) -> None:
    """A remedy that touches nothing but files is typed; elsewhere the plant's own deed is done."""
    plant.make(host)
    found = [one for one in find(host, plant) if plant.subject in one.subject and plant.reason in one.reason]
    assert found, find(host, plant)
    assert (found[0].check, found[0].result) == (plant.check, plant.result)
    assert plant.remedy in found[0].remedy
    assert plant.note in found[0].note
    for one in find(host, plant):
        check_remedy(one)
    if plant.mend is None:
        type_remedy(found[0].remedy, host.root)
    else:
        plant.mend(host)
    assert find(host, plant) == ()


@pytest.mark.parametrize("name", ["sites-enabled/shop", "sites-enabled/default", "conf.d/my shop.conf"])
def test_site_of_somebody_else_is_never_to_be_removed(host: DoctorHost, name: str) -> None:
    """A file may be the only copy; a link is Debian's own only where that leads to Debian's own."""
    plants_host.PLANTS["site of somebody else in the way"].make(host)
    host.remove("etc/nginx/conf.d/shop.conf")
    host.write(f"etc/nginx/{name}", "server { listen 8000; }\n")
    (found,) = host.find("nginx-site")
    check_remedy(found)
    assert found.remedy == f"change listen in /etc/nginx/{name}, or listen of the pool"
    assert "rm " not in found.note


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
