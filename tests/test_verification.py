# SPDX-License-Identifier: Apache-2.0
"""verify on a host that is a directory: the configuration in force, units in memory, copies of /proc."""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import machines
import pytest
from ctl_lab import instance, status, write_config
from fakes.units import FakeUnits, drop_in_path

from ovms_scaler.config import read_config
from ovms_scaler.core.cpulist import format_cpu_list
from ovms_scaler.core.fronts import PROXY_DIRECTORY
from ovms_scaler.core.nginx import Member
from ovms_scaler.core.orders import Drain, Orders
from ovms_scaler.core.target import Target, Wanted, render_proxy_files
from ovms_scaler.errors import HostError, UnknownNameError
from ovms_scaler.host.nginx import Nginx
from ovms_scaler.host.store import Store
from ovms_scaler.offline import preview_target
from ovms_scaler.verification import Report, Units, verify

STRAY_UNIT = "ovms@chat-numa1.service"
POOL = """\
[[pool]]
name = "chat"
model_name = "org/model"
model_path = "{model}"
"""


class Site:
    """A host of two nodes on which everything is as the configuration in force says."""

    def __init__(self, directory: Path, model: Path) -> None:
        self.root = directory / "host"
        machines.hbm(self.root)
        self.file = write_config(directory, POOL.format(model=model))
        config = read_config(self.file)
        self.target = preview_target(config, self.root, self.root)[0]
        self.write("run/ovms-scaler/accepted.json", json.dumps(config.document()))
        self.units = FakeUnits(root=self.root)
        for wanted in self.target.wanted.values():
            for path, text in wanted.files.items():
                self.write(path, text)
        self.pids = {name: self._start(wanted) for name, wanted in self.target.wanted.items()}
        self._route(self.target)

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.target.wanted)

    def status(self, **changes: Mapping[str, object]) -> dict[str, Any]:
        """The agent's word, with changes by instance."""
        return status(*(instance(name) | dict(changes.get(name, {})) for name in self.names))

    def verify(self, name: str | None = None, document: Mapping[str, Any] | None = None) -> Report:
        @asynccontextmanager
        async def open_units() -> AsyncIterator[Units]:
            yield self.units

        return verify(self.file, name, document, root=self.root, open_units=open_units)

    def drifts(
        self, name: str | None = None, document: Mapping[str, Any] | None = None
    ) -> list[tuple[str, str]]:
        return [(one.subject, one.what) for one in self.verify(name, document or self.status()).drifts]

    def pin(self, name: str, cpus: str) -> None:
        """A thread of its is somewhere else."""
        pid = self.pids[name]
        nodes = format_cpu_list(self.target.wanted[name].instance.memory_nodes)
        self.write(
            f"proc/{pid}/task/{pid + 5}/status",
            f"Name:\tstray\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{nodes}\n",
        )

    def unroute(self, *names: str) -> None:
        """They have left the rotation."""
        for path in (self.root / PROXY_DIRECTORY.lstrip("/")).rglob("*.conf"):
            path.unlink()
        self._route(self.target, out=names)

    def _start(self, wanted: Wanted) -> int:
        one = wanted.instance
        self.units.start_by_admin(one.unit)
        pid = self.units.read_unit(one.unit).main_pid
        cpus, nodes = format_cpu_list(one.cpus), format_cpu_list(one.memory_nodes)
        self.write(
            f"proc/{pid}/task/{pid}/status",
            f"Name:\tovms\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{nodes}\n",
        )
        self.write(f"proc/{pid}/cgroup", f"0::/ovms.slice/{one.unit}\n")
        self.write(f"proc/{pid}/cmdline", "\0".join(wanted.argv) + "\0")
        self.write(
            f"proc/{pid}/environ", "".join(f"{key}={text}\0" for key, text in wanted.environment.items())
        )
        port = f"{one.port:04X}"
        self.write(
            f"proc/{pid}/net/tcp",
            f"head\n 0: 0100007F:{port} 00000000:0000 0A 00000000:00000000 00:0 00000000 990 0 {pid} 1\n",
        )
        (self.root / f"proc/{pid}/fd").mkdir()
        (self.root / f"proc/{pid}/fd/3").symlink_to(f"socket:[{pid}]")
        return pid

    def _route(self, target: Target, out: tuple[str, ...] = ()) -> None:
        members: dict[str, tuple[Member, ...]] = {}
        for wanted in (one for name, one in target.wanted.items() if name not in out):
            one = Member(
                instance=wanted.instance.id,
                port=wanted.instance.port,
                weight=wanted.instance.weight,
                max_conns=wanted.max_conns,
                invocation=self.units.read_unit(wanted.instance.unit).invocation_id,
            )
            members[wanted.upstream] = (*members.get(wanted.upstream, ()), one)
        files = render_proxy_files(target, members)
        self.generation = files.generation
        for path, text in files.files.items():
            self.write(f"{PROXY_DIRECTORY}/{path}", text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"):
        (model / name).write_text("<net/>")
    made = Site(tmp_path, model)

    async def answer(_: Nginx) -> str:
        return made.generation

    monkeypatch.setattr(Nginx, "read_generation", answer)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def test_host_as_planned_has_no_drift(site: Site) -> None:
    report = site.verify(None, site.status())
    assert (report.drifts, report.unseen) == ((), ())
    assert [one.wanted.instance.id for one in report.checked] == ["chat-numa0", "chat-numa1"]
    # The same without the agent.
    assert site.verify().drifts == ()


def test_thread_on_the_cpus_of_another_instance_is_named_with_the_core_they_share(site: Site) -> None:
    other = format_cpu_list(site.target.wanted["chat-numa1"].instance.cpus)
    site.pin("chat-numa0", other)
    assert site.drifts() == [("chat-numa0", "CPUs of its threads"), ("chat-numa0", "cores of its own")]
    # Whoever is asked for, the core is shared.
    assert site.drifts("chat-numa1") == [("chat-numa0", "cores of its own")]
    assert site.drifts("chat") == site.drifts()


def test_plan_is_that_of_the_configuration_in_force(site: Site) -> None:
    site.file.write_text(site.file.read_text() + 'nodes = "0"\n')
    assert site.drifts() == []
    (site.root / "run/ovms-scaler/accepted.json").unlink()
    # The agent never took one here.
    assert ("proxy", f"{PROXY_DIRECTORY}/nginx.conf") in site.drifts()


def test_instance_that_does_not_run_is_a_drift_unless_it_is_meant_to_be_away(site: Site) -> None:
    site.units.stop_by_admin("ovms@chat-numa1.service")
    found = site.drifts("chat-numa1")
    assert found == [("chat-numa1", "its process")]
    drained = site.status(**{"chat-numa1": {"state": "drained", "in_rotation": False}})
    report = site.verify("chat-numa1", drained)
    assert (report.drifts, report.checked[0].skipped) == ((), "drained")


def look_alone(site: Site) -> tuple[str, list[str]]:
    """Why the second instance is not compared while the agent is away, and what differs."""
    report = site.verify()
    (one,) = (one for one in report.checked if one.wanted.instance.id == "chat-numa1")
    return one.skipped, [drift.what for drift in report.drifts]


def test_who_is_drained_is_known_without_the_agent(site: Site) -> None:
    site.unroute("chat-numa1")
    site.units.stop_by_admin(STRAY_UNIT)
    assert look_alone(site) == ("", ["its process"])
    Store(site.root).write_orders(Orders(drained={"chat-numa1": Drain(since=1.0)}))
    assert look_alone(site) == ("drained", [])


def test_who_was_stopped_by_hand_is_known_without_the_agent(site: Site) -> None:
    site.unroute("chat-numa1")
    site.units.start_by_admin("ovms.target")
    activation = site.units.read_unit("ovms.target").invocation_id
    store = Store(site.root)
    store.write_started(STRAY_UNIT, activation)
    site.units.fail(STRAY_UNIT)
    assert look_alone(site) == ("", ["its process"])  # nobody wants that
    site.units.fail(STRAY_UNIT, result="timeout")  # it was stopped while it loaded
    assert look_alone(site) == ("stopped", [])
    site.units.stop_by_admin(STRAY_UNIT)
    assert look_alone(site) == ("stopped", [])
    store.write_started(STRAY_UNIT, "before-the-target-was-started-last")
    assert look_alone(site) == ("", ["its process"])
    store.forget_started(STRAY_UNIT)  # the agent stopped it
    assert look_alone(site) == ("", ["its process"])


def test_route_to_who_was_stopped_by_hand_is_what_the_agent_did_not_take_away(site: Site) -> None:
    site.units.start_by_admin("ovms.target")
    Store(site.root).write_started(STRAY_UNIT, site.units.read_unit("ovms.target").invocation_id)
    site.units.stop_by_admin(STRAY_UNIT)
    assert look_alone(site) == ("stopped", [f"{PROXY_DIRECTORY}/routes/chat/chat-numa1.conf"])


def test_orders_that_cannot_be_trusted_are_told(site: Site) -> None:
    site.write("var/lib/ovms-scaler/orders.json", "{")
    with pytest.raises(HostError, match="cannot use the orders"):
        site.verify()


def test_of_one_that_is_about_to_be_changed_files_are_compared(site: Site) -> None:
    site.pin("chat-numa0", "0-15")
    path = f"run/systemd/system/{drop_in_path('ovms@chat-numa0.service').parent.name}/50-placement.conf"
    site.write(path, "[Service]\nExecStart=/bin/true\n")
    changing = site.status(**{"chat-numa0": {"outdated": True}})
    report = site.verify("chat-numa0", changing)
    assert report.checked[0].skipped == "about to be changed"
    assert next(one.what for one in report.drifts if one.subject == "chat-numa0") == f"/{path}"


def test_route_that_was_edited_and_proxy_that_runs_with_another_are_named(site: Site) -> None:
    route = site.root / f"{PROXY_DIRECTORY}/routes/chat/chat-numa0.conf".lstrip("/")
    route.write_text(route.read_text().replace("weight=1", "weight=9"))
    assert site.drifts() == [
        ("proxy", f"{PROXY_DIRECTORY}/routes/chat/chat-numa0.conf"),
        ("proxy", f"{PROXY_DIRECTORY}/generation.conf"),
    ]
    assert site.drifts("chat") == []  # the proxy is no instance's


def test_unknown_name_is_told(site: Site) -> None:
    with pytest.raises(UnknownNameError, match="'chta'"):
        site.verify("chta")


def test_who_is_not_root_is_told_what_was_left_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert site.verify(None, site.status()).unseen == ("proxy: run this as root",)
