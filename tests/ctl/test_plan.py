# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl plan``: what programs rely on, and what people read."""

import json
from collections.abc import Callable
from pathlib import Path

import machines
import pytest
from ctl_lab import POOL, Ctl, write_config

from ovms_scaler.config import read_config
from ovms_scaler.core.cpulist import parse_cpu_list
from ovms_scaler.ctl.changes import list_actions, list_changes
from ovms_scaler.host.store import Store
from ovms_scaler.offline import preview, preview_target, render_files

EVERY_MACHINE = pytest.mark.parametrize("machine", machines.ALL, ids=lambda machine: machine.__name__)


@pytest.fixture
def xeon(tmp_path: Path) -> Path:
    return machines.xeon_6972p_2s(tmp_path / "machine")


def test_json_of_two_xeon_6972p(ctl: Ctl, config: Path, xeon: Path) -> None:
    planned = ctl("plan", "--config", config, "--sysroot", xeon, "--json")
    assert (planned.status, planned.err) == (0, "")
    document = planned.json()
    cpus = ["0-31,192-223", "32-63,224-255", "64-95,256-287", "96-127,288-319"]
    cpus += ["128-159,320-351", "160-191,352-383"]
    contract = [
        {
            "id": f"chat-numa{node}",
            "unit": f"ovms@chat-numa{node}.service",
            "pool": "chat",
            "device": "CPU",
            "node": node,
            "cpus": own,
            "memory_nodes": str(node),
            "inference_threads": 32,
            "port": 8003 + node,
            "weight": 1,
            "gpus": [],
            "render_nodes": [],
        }
        for node, own in enumerate(cpus)
    ]
    assert [{key: one[key] for key in contract[0]} for one in document["instances"]] == contract
    assert all(isinstance(warning, str) for warning in document["warnings"])
    assert document["waiting"] == []
    assert set(document) == {"instances", "waiting", "actions", "warnings"}


@EVERY_MACHINE
def test_every_machine_is_planned_without_sharing_a_core(
    machine: Callable[[Path], Path], ctl: Ctl, config: Path, tmp_path: Path
) -> None:
    root = machine(tmp_path / "machine")
    nodes = ctl("topology", "--sysroot", root, "--json").json()["nodes"]
    document = ctl("plan", "--config", config, "--sysroot", root, "--json").json()
    assert [one["node"] for one in document["instances"]] == [node["id"] for node in nodes if node["cpus"]]
    used = [cpu for one in document["instances"] for cpu in parse_cpu_list(one["cpus"])]
    assert len(used) == len(set(used))
    ports = [one["port"] for one in document["instances"]]
    assert ports == list(range(8003, 8003 + len(ports)))


@EVERY_MACHINE
def test_tables_and_sentences_fit_80_columns(
    machine: Callable[[Path], Path], ctl: Ctl, config: Path, tmp_path: Path
) -> None:
    shown = ctl("plan", "--config", config, "--sysroot", machine(tmp_path / "machine"), "--no-diff").out
    # Paths are to be copied and therefore not wrapped.
    assert max(len(line) for line in shown.splitlines() if "/run/" not in line) <= 80
    assert "chat-numa0" in shown


def test_long_names_fit_80_columns(ctl: Ctl, tmp_path: Path, model: Path, xeon: Path) -> None:
    file = write_config(
        tmp_path, POOL.format(model=model).replace("chat", "a-name-of-as-many-as-32-characte")
    )
    shown = ctl("plan", "--config", file, "--sysroot", xeon, "--no-diff").out
    assert max(len(line) for line in shown.splitlines() if "/run/" not in line) <= 80


def test_rows_are_not_folded_in_a_pipe(ctl_process: Ctl, config: Path, xeon: Path) -> None:
    out = ctl_process("plan", "--config", config, "--sysroot", xeon, "--no-diff", env={"COLUMNS": ""}).out
    assert "chat-numa5     5  160-191,352-383       32  bind 5  8008       1\n" in out
    assert not [line for line in out.splitlines() if line.endswith(" ")]


def test_another_machine_has_nothing_yet(ctl: Ctl, config: Path, xeon: Path) -> None:
    actions = ctl("plan", "--config", config, "--sysroot", xeon, "--json").json()["actions"]
    assert actions[:3] == [
        {"action": "write", "path": "/run/ovms-scaler-proxy/nginx.conf"},
        {"action": "start", "unit": "ovms-scaler-proxy.service"},
        {"action": "start", "unit": "ovms.target"},
    ]
    assert actions[-1] == {"action": "start", "unit": "ovms@chat-numa5.service"}
    assert not [one for one in actions if "routes" in one.get("path", "")]
    assert not [one for one in actions if "generation.conf" in one.get("path", "")]


def test_diff_shows_every_new_file_and_can_be_left_out(ctl: Ctl, config: Path, xeon: Path) -> None:
    shown = ctl("plan", "--config", config, "--sysroot", xeon).out
    assert "+++ /run/systemd/system/ovms@chat-numa0.service.d/50-placement.conf\n" in shown
    assert "+CPUAffinity=0-31,192-223\n" in shown
    assert "+CPUAffinity" not in ctl("plan", "--config", config, "--sysroot", xeon, "--no-diff").out


def test_no_escape_sequence_where_nobody_looks(ctl: Ctl, config: Path, xeon: Path) -> None:
    assert "\x1b" not in ctl("plan", "--config", config, "--sysroot", xeon).out


def test_a_missing_model_is_a_problem_with_a_way_out(ctl: Ctl, tmp_path: Path, xeon: Path) -> None:
    file = write_config(tmp_path, POOL.format(model="/srv/models/gone"))
    shown = ctl("plan", "--config", file, "--sysroot", xeon, "--no-diff")
    assert shown.status == 0
    text = " ".join(shown.out.split())
    assert "Would not be started chat-numa0, chat-numa1" in text
    assert "cannot serve '/srv/models/gone': No such file or directory hint: check the path" in text
    assert "start ovms@" not in text
    document = ctl("plan", "--config", file, "--sysroot", xeon, "--json").json()
    assert (
        document["instances"][0]["problem"] == "cannot serve '/srv/models/gone': No such file or directory"
    )
    assert not [one for one in document["actions"] if one.get("unit", "").startswith("ovms@")]


def test_no_pool_is_said(ctl: Ctl, tmp_path: Path, xeon: Path) -> None:
    file = write_config(tmp_path, "")
    shown = ctl("plan", "--config", file, "--sysroot", xeon)
    assert (shown.status, shown.err) == (0, "")
    assert "nothing would serve" in shown.out
    empty = ctl("plan", "--config", file, "--sysroot", xeon, "--json").json()
    assert empty == {"instances": [], "waiting": [], "actions": [], "warnings": []}


def test_two_pools_on_nodes_of_their_own(ctl: Ctl, tmp_path: Path, model: Path, xeon: Path) -> None:
    one = POOL.format(model=model)
    text = f'{one}nodes = "0-2"\n{one.replace("chat", "draft")}nodes = "3-5"\nlisten = "8001"\n'
    file = write_config(tmp_path, text)
    document = ctl("plan", "--config", file, "--sysroot", xeon, "--json").json()
    assert [one["id"] for one in document["instances"]] == [
        *(f"chat-numa{node}" for node in range(3)),
        *(f"draft-numa{node}" for node in range(3, 6)),
    ]
    shown = ctl("plan", "--config", file, "--sysroot", xeon, "--no-diff").out
    assert "clients connect to port 8000" in shown
    assert "clients connect to port 8001" in shown


def gpu_pool(model: Path, *more: str) -> str:
    pool = POOL.format(model=model).replace('"chat"', '"fast"')
    return "\n".join([pool.rstrip(), 'placement = "gpu"', *more, ""])


def test_gpus_and_nodes_behind_one_port(ctl: Ctl, tmp_path: Path, model: Path) -> None:
    file = write_config(tmp_path, POOL.format(model=model) + gpu_pool(model))
    machine = machines.four_b580(tmp_path / "machine")
    shown = ctl("plan", "--config", file, "--sysroot", machine, "--no-diff").out
    assert shown.startswith(
        "chat: meta-llama/Meta-Llama-3-8B-Instruct\n"
        "  2 instances on CPU, clients connect to port 8000\n"
        "Instance    Node  CPUs         Threads  Memory  Port  Weight\n"
        "chat-numa0     0  0-11,32-43        12  bind 0  8003       1\n"
        "chat-numa1     1  16-27,48-59       12  bind 1  8004       1\n"
        "\n"
        "fast: meta-llama/Meta-Llama-3-8B-Instruct\n"
        "  4 instances on one GPU each, clients connect to port 8000\n"
        "Instance               GPU           Node  Host CPUs    Port  Weight\n"
        "fast-gpu-0000:03:00.0  0000:03:00.0     0  14-15,46-47  8005       1\n"
        "fast-gpu-0000:18:00.0  0000:18:00.0     0  12-13,44-45  8006       1\n"
        "fast-gpu-0000:83:00.0  0000:83:00.0     1  30-31,62-63  8007       1\n"
        "fast-gpu-0000:9a:00.0  0000:9a:00.0     1  28-29,60-61  8008       1\n"
    )
    assert max(len(line) for line in shown.splitlines() if "/run/" not in line) <= 80


def test_json_of_an_instance_on_a_gpu(ctl: Ctl, tmp_path: Path, model: Path) -> None:
    file = write_config(tmp_path, gpu_pool(model))
    machine = machines.four_b580(tmp_path / "machine")
    (gpu, *_) = ctl("topology", "--sysroot", machine, "--json").json()["gpus"]
    (one, *others) = ctl("plan", "--config", file, "--sysroot", machine, "--json").json()["instances"]
    assert len(others) == 3
    expected = {
        "id": f"fast-gpu-{gpu['address']}",
        "unit": f"ovms@fast-gpu-{gpu['address']}.service",
        "device": "GPU",
        "gpus": [gpu["address"]],
        "render_nodes": [gpu["render_node"]],
        "node": gpu["numa_node"],
    }
    assert {key: one[key] for key in expected} == expected


def test_groups_of_gpus(ctl: Ctl, tmp_path: Path, model: Path) -> None:
    file = write_config(tmp_path, gpu_pool(model).replace('"gpu"', '"hetero"'))
    machine = machines.four_b580(tmp_path / "machine")
    shown = ctl("plan", "--config", file, "--sysroot", machine, "--no-diff").out
    assert "  2 instances on 2 GPUs each, clients connect to port 8000\n" in shown
    assert "fast-hetero0  0000:03:00.0, 0000:18:00.0     0  12-15,44-47  8003       1\n" in shown


def test_one_that_waits_for_a_gpu_is_not_planned(ctl: Ctl, tmp_path: Path, model: Path) -> None:
    file = write_config(tmp_path, gpu_pool(model, 'gpus = ["0000:03:00.0", "0000:77:00.0"]'))
    arguments = ("plan", "--config", file, "--sysroot", machines.four_b580(tmp_path / "machine"))
    document = ctl(*arguments, "--json").json()
    assert [one["id"] for one in document["instances"]] == ["fast-gpu-0000:03:00.0"]
    (waiting,) = document["waiting"]
    assert (waiting["id"], waiting["gpus"]) == ("fast-gpu-0000:77:00.0", ["0000:77:00.0"])
    assert waiting["reason"] == "there is no GPU at 0000:77:00.0"
    assert not [one for one in document["actions"] if "0000:77:00.0" in str(one)]
    shown = ctl(*arguments, "--no-diff").out
    assert "  1 instance on one GPU, 1 that waits for a GPU, clients connect to port 8000\n" in shown
    assert (
        "Waiting\n  fast-gpu-0000:77:00.0: there is no GPU at 0000:77:00.0\n"
        "    hint: ovms-scalerctl topology; GPUs of this" in shown
    )
    assert "Would not be started" not in shown


def test_a_machine_without_a_gpu_for_a_pool(ctl: Ctl, tmp_path: Path, model: Path, xeon: Path) -> None:
    file = write_config(tmp_path, gpu_pool(model))
    shown = ctl("plan", "--config", file, "--sysroot", xeon, "--no-diff")
    assert shown.status == 0
    assert "  no instance, clients connect to port 8000\n\nWarnings\n" in shown.out
    assert "this machine has no GPU" in shown.out
    assert "Node" not in shown.out


def test_one_whose_gpu_was_pulled_out_is_stopped_and_its_files_are_removed(
    tmp_path: Path, model: Path, xeon: Path
) -> None:
    config = read_config(write_config(tmp_path, gpu_pool(model, 'gpus = ["0000:03:00.0"]')))
    host = tmp_path / "host"
    target, _ = preview_target(config, machines.four_b580(tmp_path / "before"), host)
    Store(host).write_instance(render_files(target))
    Store(host).write_books(target.books)
    found = preview(config, xeon, host)
    actions = list_actions(found, list_changes(found))
    own = [one for one in actions if "fast-gpu" in (one.get("instance") or one.get("unit") or "")]
    assert own[0] == {"action": "stop", "unit": "ovms@fast-gpu-0000:03:00.0.service"}
    assert {one["action"] for one in own[1:]} == {"remove"}
    assert found.target.instances[0].problem == "its GPU 0000:03:00.0 is not there"


def test_an_error_of_placement_names_its_file(ctl: Ctl, tmp_path: Path, model: Path, xeon: Path) -> None:
    file = write_config(tmp_path, POOL.format(model=model) + 'nodes = "0,7"\n')
    refused = ctl("plan", "--config", file, "--sysroot", xeon, "--json")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == (
        f"{file}: pool[0].nodes: names node 7, which this machine does not have\n"
        "  hint: it has 0-5\n1 error\n"
    )


def test_equal_input_gives_equal_output(ctl: Ctl, config: Path, xeon: Path) -> None:
    arguments = ("plan", "--config", config, "--sysroot", xeon)
    assert ctl(*arguments).out == ctl(*arguments).out
    first = json.dumps(ctl(*arguments, "--json").json())
    assert json.dumps(ctl(*arguments, "--json").json()) == first
