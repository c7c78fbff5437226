# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl check-config``: whether the agent would accept a file, with every reason why not."""

from pathlib import Path

import machines
import pytest
from ctl_lab import POOL, Ctl, write_config


@pytest.fixture
def xeon(tmp_path: Path) -> Path:
    return machines.xeon_6972p_2s(tmp_path / "machine")


def test_a_good_file_is_said_to_be_good(ctl: Ctl, config: Path, xeon: Path) -> None:
    checked = ctl("check-config", config, "--sysroot", xeon)
    assert (checked.status, checked.out) == (0, f"{config}: good; pools: 1, instances: 6\n")


def test_a_missing_file_is_told_with_its_name(ctl: Ctl, tmp_path: Path) -> None:
    refused = ctl("check-config", tmp_path / "gone.toml")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith(f"{tmp_path}/gone.toml: cannot read: No such file or directory\n  hint: ")


def test_every_error_is_shown_and_counted(ctl: Ctl, tmp_path: Path) -> None:
    file = write_config(tmp_path, '[[pool]]\nname = "Chat"\nplacment = "numa"\n[health]\nfailures = 0\n')
    refused = ctl("check-config", file)
    assert refused.status == 1
    assert refused.err == (
        f"{file}: pool[0].name: must be 1 to 32 of a-z, 0-9 and '-', not starting or ending with '-', "
        "not 'Chat'\n"
        '  hint: for example "chat"\n'
        f"{file}: pool[0].placment: is not a key of this table\n"
        '  hint: did you mean "placement"?\n'
        f"{file}: health.failures: must be 1 or greater, not 0\n"
        "3 errors\n"
    )


def test_pools_that_would_share_cores_are_an_error(
    ctl: Ctl, tmp_path: Path, model: Path, xeon: Path
) -> None:
    one = POOL.format(model=model)
    file = write_config(tmp_path, f'{one}nodes = "0-1"\n{one.replace("chat", "draft")}listen = "8001"\n')
    refused = ctl("check-config", file, "--sysroot", xeon)
    assert refused.status == 1
    assert refused.err.startswith(
        f"{file}: pool: 'chat' and 'draft' would share cores: chat-numa0 and draft-numa0 both want CPUs "
        "0-31,192-223\n  hint: give each pool nodes of its own"
    )


@pytest.mark.parametrize(
    ("more", "error"),
    [
        pytest.param(
            'nodes = "6"',
            "pool[0].nodes: names node 6, which this machine does not have\n  hint: it has 0-5",
            id="unknown node",
        ),
        pytest.param(
            "instances_per_node = 33",
            "pool[0].instances_per_node: must be 32 or less, the number of usable cores of node 0, not 33",
            id="more instances than cores",
        ),
        pytest.param(
            'reserve_cpus = "0-383"',
            "pool[0]: has no node with a usable CPU\n",
            id="everything reserved",
        ),
    ],
)
def test_what_does_not_fit_the_machine_is_an_error(
    more: str, error: str, ctl: Ctl, tmp_path: Path, model: Path, xeon: Path
) -> None:
    file = write_config(tmp_path, f"{POOL.format(model=model)}{more}\n")
    refused = ctl("check-config", file, "--sysroot", xeon)
    assert refused.status == 1
    assert f"{file}: {error}" in refused.err


def test_a_missing_model_is_a_warning_as_it_may_appear(ctl: Ctl, tmp_path: Path, xeon: Path) -> None:
    file = write_config(tmp_path, POOL.format(model="/srv/models/gone"))
    checked = ctl("check-config", file, "--sysroot", xeon)
    assert (checked.status, checked.out) == (0, f"{file}: good; pools: 1, instances: 6\n")
    assert checked.err == (
        "warning: would not be started: cannot serve '/srv/models/gone': No such file or directory\n"
        "  hint: check the path; a model on a file system that is mounted later appears by itself\n"
    )


def test_without_an_argument_it_is_the_installed_file(ctl: Ctl) -> None:
    checked = ctl("check-config")
    assert checked.status in (0, 1)
    assert "/etc/ovms-scaler/config.toml: " in checked.out + checked.err


def test_keys_cannot_steer_the_terminal(ctl: Ctl, tmp_path: Path) -> None:
    file = write_config(tmp_path, '"\\u001b[2Jkey" = 1\n')
    refused = ctl("check-config", file)
    assert "\x1b" not in refused.err
    assert "\\x1b[2Jkey: is not a key" in refused.err


def test_json_says_that_a_file_is_good(ctl: Ctl, tmp_path: Path, config: Path, xeon: Path) -> None:
    checked = ctl("check-config", config, "--sysroot", xeon, "--json")
    assert (checked.status, checked.err) == (0, "")
    document = checked.json()
    assert (document["valid"], document["errors"]) == (True, [])
    missing = write_config(tmp_path, POOL.format(model="/srv/models/gone"))
    warned = ctl("check-config", missing, "--sysroot", xeon, "--json")
    assert (warned.status, warned.err) == (0, "")
    (warning,) = warned.json()["warnings"]
    assert warning.startswith("would not be started: cannot serve '/srv/models/gone'")


def test_json_has_every_error_with_its_value(ctl: Ctl, tmp_path: Path) -> None:
    text = 'when = 2025-11-21\n[[pool]]\nname = "Chat"\nplacment = {deep = [inf]}\n[health]\nfailures = 0\n'
    file = write_config(tmp_path, text)
    refused = ctl("check-config", file, "--json")
    assert (refused.status, refused.err) == (1, "")
    document = refused.json()
    assert (document["valid"], document["warnings"]) == (False, [])
    assert all(set(error) == {"file", "key", "value", "rule", "hint"} for error in document["errors"])
    assert {error["key"]: error["value"] for error in document["errors"]} == {
        "when": "2025-11-21",
        "pool[0].name": "Chat",
        "pool[0].placment": {"deep": ["inf"]},
        "health.failures": 0,
    }
    (misspelled,) = (error for error in document["errors"] if error["key"] == "pool[0].placment")
    assert misspelled["file"] == str(file)
    assert misspelled["hint"] == 'did you mean "placement"?'


def test_json_has_what_does_not_fit_the_machine(ctl: Ctl, tmp_path: Path, model: Path, xeon: Path) -> None:
    file = write_config(tmp_path, f'{POOL.format(model=model)}nodes = "6"\n')
    (error,) = ctl("check-config", file, "--sysroot", xeon, "--json").json()["errors"]
    assert (error["key"], error["value"]) == ("pool[0].nodes", "6")
    assert error["file"] == str(file)


def test_json_of_a_file_that_is_not_there(ctl: Ctl, tmp_path: Path) -> None:
    (error,) = ctl("check-config", tmp_path / "gone.toml", "--json").json()["errors"]
    assert (error["file"], error["key"], error["value"]) == (f"{tmp_path}/gone.toml", "", None)
    assert error["hint"] == "`ovms-scalerctl init` writes one from what it finds"
