# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl init``: from what is found to a configuration that the agent accepts."""

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import gpu_machines
import machines
import pytest
from ctl_lab import Ctl, FakeAgent, Result, run_as_anybody, status
from ctl_screen import screen

SHIPPED = Path(__file__).parents[2] / "packaging" / "config.toml"


def make_model(directory: Path) -> Path:
    """A directory that looks like the OpenVINO export of an LLM."""
    directory.mkdir(parents=True)
    for name in ("openvino_model.xml", "openvino_tokenizer.xml"):
        (directory / name).write_text("<net/>")
    (directory / "openvino_model.bin").write_bytes(bytes(1 << 20))
    return directory


@pytest.fixture
def models(open_directory: Path) -> Path:
    """A repository as ``ovms --pull`` makes it, with one model that the user ovms may read."""
    make_model(open_directory / "models/org/llama")
    return open_directory / "models"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etc/config.toml"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    program = tmp_path / "opt/bin/ovms"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def xeon(tmp_path: Path) -> Path:
    return machines.single_node(tmp_path / "xeon")


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    return gpu_machines.four_b580(tmp_path / "cards")


def read(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text())


def test_one_model_and_no_gpu_leave_nothing_to_ask(
    ctl: Ctl, models: Path, file: Path, program: Path, xeon: Path
) -> None:
    done = ctl(
        "init", "--models", models, "--output", file, "--sysroot", xeon, "--binary", program, "--no-input"
    )
    assert (done.status, done.err) == (0, "")
    (pool,) = read(file)["pool"]
    path = str(models / "org/llama")
    assert pool == {"name": "chat", "model_name": "org/llama", "model_path": path}
    assert read(file)["engine"] == {"binary": str(program)}
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert done.out.splitlines()[-2:] == [
        f"  ovms-scalerctl check-config {file}",
        f"  ovms-scalerctl plan --config {file} --no-diff",
    ]
    checked = ctl("check-config", file, "--sysroot", xeon)
    assert (checked.status, checked.err) == (0, "")


def test_json_says_what_was_written(ctl: Ctl, models: Path, file: Path, program: Path, xeon: Path) -> None:
    done = ctl(
        "init", "--json", "--models", models, "--output", file, "--sysroot", xeon, "--binary", program
    )
    document = done.json()
    assert document.pop("text") == file.read_text()
    assert document == {
        "file": str(file),
        "kept": None,
        "model": {"path": str(models / "org/llama"), "name": "org/llama", "weights_bytes": 1 << 20},
        "placement": "numa",
        "listen": "8000",
        "binary": str(program),
        "instances": ["chat-numa0"],
        "warnings": [],
        "next": [f"ovms-scalerctl check-config {file}", f"ovms-scalerctl plan --config {file} --no-diff"],
    }


def test_standard_output_gets_the_configuration_and_nothing_else(
    ctl: Ctl, models: Path, program: Path, xeon: Path
) -> None:
    shown = ctl("init", "--models", models, "--output", "-", "--sysroot", xeon, "--binary", program)
    assert (shown.status, shown.err) == (0, "")
    assert tomllib.loads(shown.out)["pool"][0]["model_name"] == "org/llama"


def test_everything_can_be_said(ctl: Ctl, models: Path, file: Path, cards: Path) -> None:
    model = make_model(models.parent / "elsewhere")
    options = ["--model-name", "big", "--placement", "both", "--listen", "127.0.0.1:9000"]
    done = ctl("init", "--model", model, *options, "--output", file, "--sysroot", cards)
    assert done.status == 0
    pools = read(file)["pool"]
    assert [pool.get("placement", "numa") for pool in pools] == ["numa", "gpu"]
    for pool in pools:
        assert (pool["model_name"], pool["model_path"]) == ("big", str(model))
        assert pool["listen"] == "127.0.0.1:9000"


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        pytest.param(("--model-name", "a b"), "pool[0].model_name: must be a model name", id="name"),
        pytest.param(("--listen", "no-port"), "pool[0].listen: must be a port or", id="listen"),
    ],
)
def test_what_breaks_a_rule_of_the_configuration_is_not_written(
    option: tuple[str, str], rule: str, ctl: Ctl, models: Path, file: Path
) -> None:
    refused = ctl("init", "--models", models, "--output", file, "--placement", "numa", *option)
    assert (refused.status, refused.out) == (1, "")
    assert rule in refused.err
    assert not file.exists()


def test_what_contradicts_other_files_is_not_written(ctl: Ctl, models: Path, file: Path, xeon: Path) -> None:
    more = file.parent / "config.d/more.toml"
    more.parent.mkdir(parents=True)
    more.write_text(f'[[pool]]\nname = "other"\nmodel_name = "m"\nmodel_path = "{models}/org/llama"\n')
    refused = ctl("init", "--models", models, "--output", file, "--sysroot", xeon)
    assert refused.status == 1
    assert "would share cores" in refused.err
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "2 models were found; say which one is to be served:", id="several models"),
        pytest.param(["--model", "models/my llama"], "say --model-name NAME", id="name that tells nothing"),
        pytest.param(["--model", "models/org/llama"], "say --placement numa, gpu or both", id="GPUs"),
    ],
)
def test_what_cannot_be_known_is_wrong_usage_without_a_terminal(
    arguments: list[str],
    said: str,
    ctl: Ctl,
    models: Path,
    file: Path,
    cards: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_model(models / "my llama")
    monkeypatch.chdir(models.parent)
    refused = ctl("init", "--models", "models", *arguments, "--output", file, "--sysroot", cards)
    assert (refused.status, refused.out) == (2, "")
    assert said in refused.err
    assert not file.exists()


def test_without_a_model_it_says_where_it_looked_and_what_it_saw(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/model.safetensors").write_text("")
    refused = ctl("init", "--models", tmp_path, "--output", "-")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == (
        f"ovms-scalerctl: cannot find a model in OpenVINO format below {tmp_path}\n"
        f"  cannot serve '{tmp_path}/llama': it holds a model in another format than OpenVINO's: export it "
        "with optimum-cli export openvino, or with OVMS's export_model.py\n"
        "  hint: --models DIR looks below DIR, --model PATH names one\n"
    )


def test_a_path_that_is_no_model_is_told(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused = ctl("init", "--model", tmp_path / "empty", "--output", "-")
    assert refused.status == 1
    assert "the directory is empty\n  hint: " in refused.err


def test_a_missing_program_is_a_warning(
    ctl: Ctl, models: Path, file: Path, xeon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    done = ctl("init", "--models", models, "--output", file, "--sysroot", xeon)
    assert done.status == 0
    assert "warning: there is no program '/opt/ovms/bin/ovms' yet\n  hint: " in done.err


def init(ctl: Ctl, models: Path, file: Path, xeon: Path, *options: object) -> Result:
    return ctl("init", "--models", models, "--output", file, "--sysroot", xeon, *options)


def test_what_was_configured_is_not_overwritten(ctl: Ctl, models: Path, file: Path, xeon: Path) -> None:
    file.parent.mkdir()
    file.write_text("[health]\nfailures = 3\n")
    refused = init(ctl, models, file, xeon)
    assert refused.status == 1
    assert "it is there already, and something is set in it\n  hint: --force" in refused.err
    assert read(file) == {"health": {"failures": 3}}


@pytest.mark.parametrize("text", ["[health", "\udcff"], ids=["not TOML", "not UTF-8"])
def test_what_cannot_be_understood_is_not_overwritten(
    text: str, ctl: Ctl, models: Path, file: Path, xeon: Path
) -> None:
    file.parent.mkdir()
    file.write_text(text, errors="surrogateescape")
    assert init(ctl, models, file, xeon).status == 1
    assert file.read_bytes() == text.encode(errors="surrogateescape")


def test_force_keeps_what_it_replaces(ctl: Ctl, models: Path, file: Path, xeon: Path) -> None:
    file.parent.mkdir()
    file.write_text("[health]\nfailures = 3\n")
    assert init(ctl, models, file, xeon, "--force").status == 0
    assert read(file)["pool"][0]["name"] == "chat"
    assert read(file.with_name("config.toml.old")) == {"health": {"failures": 3}}
    # Only what says something else is worth keeping.
    assert init(ctl, models, file, xeon, "--force").status == 0
    assert read(file.with_name("config.toml.old")) == {"health": {"failures": 3}}


def test_the_file_of_the_package_counts_as_none(ctl: Ctl, models: Path, file: Path, xeon: Path) -> None:
    file.parent.mkdir()
    file.write_text(SHIPPED.read_text())
    assert init(ctl, models, file, xeon).status == 0
    assert read(file)["pool"][0]["name"] == "chat"
    assert os.listdir(file.parent) == ["config.toml"]


def test_a_link_to_the_configuration_stays_one(ctl: Ctl, models: Path, file: Path, xeon: Path) -> None:
    file.parent.mkdir()
    file.symlink_to("real.toml")
    assert init(ctl, models, file, xeon).status == 0
    assert file.is_symlink()
    assert read(file.with_name("real.toml"))["pool"][0]["name"] == "chat"


def test_a_device_is_not_replaced_by_a_file(ctl: Ctl, models: Path, xeon: Path) -> None:
    refused = init(ctl, models, Path("/dev/null"), xeon, "--force")
    assert refused.status == 1
    assert "it is not a file" in refused.err
    assert Path("/dev/null").is_char_device()


def test_another_machines_configuration_is_not_put_in_place_here(ctl: Ctl, models: Path, xeon: Path) -> None:
    refused = ctl("init", "--models", models, "--sysroot", xeon)
    assert refused.status == 2
    assert "--output says where to write" in refused.err


def test_who_may_not_write_is_told_before_anything_is_asked(open_directory: Path) -> None:
    make_model(open_directory / "models/a")
    make_model(open_directory / "models/b")
    (open_directory / "etc").mkdir(mode=0o755)
    place = str(open_directory / "etc/config.toml")
    refused = run_as_anybody(
        open_directory, "init", "--models", str(open_directory / "models"), "--output", place
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"ovms-scalerctl: cannot write {place}: Permission denied\n  hint: run")


def test_at_a_terminal_it_asks_what_it_cannot_know(models: Path, file: Path, cards: Path) -> None:
    make_model(models / "org/qwen")
    with screen("init", "--models", models, "--output", file, "--sysroot", cards) as shown:
        shown.read_until("2 models were found. Which one is to be served?")
        shown.read_until("Number: ")
        shown.type("3\n")
        assert "org/qwen" in shown.text
        shown.read_until("Number: ")  # there is no third
        shown.type("2\n")
        shown.read_until("4 GPUs to use. Where is it to run?")
        shown.read_until("Number: ")
        shown.type("2\n")
        shown.read_rest()
        assert shown.process.wait() == 0
    (pool,) = read(file)["pool"]
    assert (pool["model_name"], pool["placement"]) == ("org/qwen", "gpu")
    # What is to be copied is not folded.
    lines = [line for line in shown.lines if not line.startswith("  ovms-scalerctl ")]
    assert max(map(len, lines)) <= 80


def test_at_a_terminal_nothing_is_asked_with_no_input(models: Path, file: Path, cards: Path) -> None:
    with screen("init", "--no-input", "--models", models, "--output", file, "--sysroot", cards) as shown:
        shown.read_rest()
        assert "say --placement" in shown.text
        assert shown.process.wait() == 2


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_whoever_changes_his_mind_leaves_nothing_behind(
    key: str, models: Path, file: Path, cards: Path
) -> None:
    with screen("init", "--models", models, "--output", file, "--sysroot", cards) as shown:
        shown.read_until("Number: ")
        shown.type(key)
        assert "Traceback" not in shown.read_rest()
        assert shown.process.wait() == 130
    assert not file.parent.exists()


def test_what_to_type_next_depends_on_whether_an_agent_runs(agent: FakeAgent, tmp_path: Path) -> None:
    from ovms_scaler.ctl.first_view import read_next

    installed = Path("/etc/ovms-scaler/config.toml")
    agent.say(status())
    assert read_next(installed, agent.socket)[2:] == ("ovms-scalerctl reload --wait",)
    assert read_next(installed, tmp_path / "gone")[2] == "systemctl enable --now ovms-scaler"
