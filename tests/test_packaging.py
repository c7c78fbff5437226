# SPDX-License-Identifier: Apache-2.0
"""What is installed beside code and units: the configuration, and what needrestart and dpkg are told."""

import dataclasses
import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ovms_scaler.core.nginx import ProxySettings
from ovms_scaler.core.spec import GpuRules, Pool, Proxy, Spec
from ovms_scaler.core.spec_admin import Admin
from ovms_scaler.core.spec_engine import Engine, Graph, Ovms
from ovms_scaler.core.spec_health import HealthRules

PACKAGING = Path(__file__).parents[1] / "packaging"
CONFIG = (PACKAGING / "config.toml").read_text()
TABLES = {
    "admin": Admin,
    "engine": Engine,
    "gpu": GpuRules,
    "health": HealthRules,
    "pool": Pool,
    "pool.graph": Graph,
    "pool.ovms": Ovms,
    "proxy": Proxy,
}


def read_uncommented() -> dict[str, Any]:
    """The shipped file with every "#key = value" and "#[table]" in force."""
    return tomllib.loads(re.sub(r"^#(?=[\w\[])", "", CONFIG, flags=re.M))


def read_tables() -> dict[str, Mapping[str, Any]]:
    document = read_uncommented()
    (pool,) = document["pool"]
    return {
        **{name: table for name, table in document.items() if name != "pool"},
        **{f"pool.{name}": pool.pop(name) for name in ("graph", "ovms")},
        "pool": pool,
    }


def test_shipped_configuration_sets_nothing() -> None:
    assert tomllib.loads(CONFIG) == {}


def test_shipped_configuration_shows_every_table() -> None:
    assert sorted(read_tables()) == sorted(TABLES)
    assert sorted(read_uncommented()) == sorted(field.name for field in dataclasses.fields(Spec))


@pytest.mark.parametrize("name", TABLES)
def test_shipped_configuration_shows_every_key(name: str) -> None:
    keys = {field.name for field in dataclasses.fields(TABLES[name]) if f"{name}.{field.name}" not in TABLES}
    assert set(read_tables()[name]) == keys


@pytest.mark.parametrize("name", TABLES)
def test_shipped_configuration_shows_the_defaults(name: str) -> None:
    """A key without a default shows an example; see test_shipped_configuration_marks_examples."""
    shown = read_tables()[name]
    for field in dataclasses.fields(TABLES[name]):
        if has_default(field) and field.name in shown:
            assert shown[field.name] == as_toml(field.default), f"{name}.{field.name}"


def test_shipped_configuration_marks_examples() -> None:
    """Whoever reads "#weight = 32" must not take it for the default."""
    unmarked = []
    for name in ("admin", "engine", "gpu", "health", "pool", "proxy"):
        for field in dataclasses.fields(TABLES[name]):
            comment = re.search(rf"((?:^# .*\n)+)(?:#.*\n)?^#{field.name} = ", CONFIG, re.M)
            if comment is not None and has_default(field) == ("(Example)" in comment[1]):
                unmarked.append(f"{name}.{field.name}")
    assert unmarked == []


def as_toml(value: object) -> object:
    """The value as tomllib reads it."""
    return list(value) if isinstance(value, tuple) else value


def has_default(field: "dataclasses.Field[Any]") -> bool:
    """Whether leaving the key out is the same as giving it some value."""
    return field.default is not dataclasses.MISSING and field.default not in (None, "", ())


@pytest.mark.parametrize(
    ("unit", "kept"),
    [
        pytest.param("ovms@chat-numa0.service", True, id="instance"),
        pytest.param("ovms-scaler-proxy.service", False, id="proxy, for which there is a way"),
        pytest.param("ovms-scaler.service", False, id="agent, which nobody waits for"),
        pytest.param("nginx.service", False, id="the administrator's own proxy"),
    ],
)
def test_needrestart_leaves_alone(unit: str, *, kept: bool) -> None:
    """needrestart evaluates the file as Perl and leaves out what a pattern sets to 0."""
    script = (
        "our %nrconf; my ($file, $unit) = @ARGV; do $file or defined $nrconf{override_rc} or die;"
        "for (keys %{$nrconf{override_rc}}) { print 'kept' if $unit =~ /$_/ && !$nrconf{override_rc}{$_} }"
    )
    override = PACKAGING / "needrestart/ovms-scaler.conf"
    done = subprocess.run(
        ["perl", "-e", script, override, unit], check=True, capture_output=True, text=True, timeout=10
    )
    assert done.stdout == ("kept" if kept else "")


def test_needrestart_has_a_way_to_renew_the_proxy() -> None:
    """In place of "systemctl restart" it runs the file in restart.d that is named after the unit."""
    way = PACKAGING / "needrestart/ovms-scaler-proxy.service"
    assert (PACKAGING.parent / "units" / way.name).is_file()
    assert os.access(way, os.X_OK)
    assert way.read_text().splitlines()[-1] == f"exec systemctl reload {way.name}"
    installed = (PACKAGING.parent / "debian/ovms-scaler.install").read_text().splitlines()
    assert f"packaging/needrestart/{way.name} etc/needrestart/restart.d" in installed


def test_prometheus_finds_the_rules_where_the_example_says() -> None:
    installed = (PACKAGING.parent / "debian/ovms-scaler.install").read_text().splitlines()
    (rules,) = (PACKAGING / "prometheus").glob("*.rules.yml")
    assert f"packaging/prometheus/{rules.name} usr/share/ovms-scaler/prometheus" in installed
    example = (PACKAGING / "prometheus/prometheus.yml").read_text()
    assert f"\n  - /usr/share/ovms-scaler/prometheus/{rules.name}\n" in example
    assert f'["{Admin().listen}"]' in example


def test_dpkg_tells_of_what_the_proxy_executes() -> None:
    """deb-triggers(5): a directory stands for all below it; ldconfig is activated by every library."""
    lines = (PACKAGING.parent / "debian/ovms-scaler.triggers").read_text().splitlines()
    words = [line.split() for line in lines if not line.startswith("#")]
    # Nobody's installation waits for us.
    assert {verb for verb, _ in words} == {"interest-noawait"}
    modules = ProxySettings(worker_processes=1, worker_connections=1).stream_module
    nginx, directory, libraries = (name for _, name in words)
    assert f"ExecStart={nginx} " in (PACKAGING.parent / "units/ovms-scaler-proxy.service").read_text()
    assert modules.startswith(f"{directory}/")
    assert libraries == "ldconfig"


def test_udev_makes_a_unit_of_each_render_node() -> None:
    """One line, in the syntax of udev(7); systemd.device(5) names the tag."""
    lines = (PACKAGING / "ovms-scaler.udev").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules == ['SUBSYSTEM=="drm", KERNEL=="renderD*", TAG+="systemd"']


def test_group_of_the_render_nodes_is_made() -> None:
    """SupplementaryGroups= fails the start of an instance when there is no such group."""
    lines = (PACKAGING / "ovms-scaler.sysusers").read_text().splitlines()
    assert ["g", "render", "-"] in [line.split() for line in lines]


def test_debhelper_finds_the_files_whose_directories_it_chooses() -> None:
    debian = PACKAGING.parent / "debian"
    (names,) = re.findall(r"^from_tree = (.*)$", (debian / "rules").read_text(), re.M)
    assert sorted(names.split()) == [
        *("ovms-scaler.service", "ovms-scaler.sysusers", "ovms-scaler.tmpfiles", "ovms-scaler.udev")
    ]
    places = (PACKAGING, PACKAGING.parent / "units")
    assert all(any((place / name).is_file() for place in places) for name in names.split())
