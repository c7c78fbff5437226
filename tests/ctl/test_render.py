# SPDX-License-Identifier: Apache-2.0
"""``ovms-scalerctl render``: the files as the agent would write them, below a directory."""

from pathlib import Path

import machines
import pytest
from ctl_lab import POOL, Ctl, write_config


@pytest.fixture
def xeon(tmp_path: Path) -> Path:
    return machines.xeon_6972p_2s(tmp_path / "machine")


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_file_is_at_its_final_path(ctl: Ctl, config: Path, xeon: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    written = ctl("render", "--config", config, "--sysroot", xeon, "--output", out)
    assert written.status == 0
    ids = [f"chat-numa{node}" for node in range(6)]
    assert set(read_tree(out)) == {
        "run/ovms-scaler-proxy/nginx.conf",
        "run/ovms-scaler-proxy/generation.conf",
        *(f"run/ovms-scaler-proxy/routes/chat/{name}.conf" for name in ids),
        *(f"run/ovms-scaler/instances/{name}/graph.pbtxt" for name in ids),
        *(f"run/systemd/system/ovms@{name}.service.d/50-placement.conf" for name in ids),
    }
    assert written.out.splitlines() == sorted(f"/{path}" for path in read_tree(out))


def test_a_drop_in_places_its_instance(ctl: Ctl, config: Path, xeon: Path, tmp_path: Path) -> None:
    ctl("render", "--config", config, "--sysroot", xeon, "--output", tmp_path / "out")
    drop_in = tmp_path / "out/run/systemd/system/ovms@chat-numa5.service.d/50-placement.conf"
    lines = drop_in.read_text().splitlines()
    for line in (
        "CPUAffinity=160-191,352-383",
        "AllowedCPUs=160-191,352-383",
        "NUMAPolicy=bind",
        "NUMAMask=5",
    ):
        assert line in lines
    assert "    --rest_port 8008 \\" in lines


def test_what_is_shown_by_plan_is_what_is_rendered(
    ctl: Ctl, config: Path, xeon: Path, tmp_path: Path
) -> None:
    ctl("render", "--config", config, "--sysroot", xeon, "--output", tmp_path / "out")
    shown = ctl("plan", "--config", config, "--sysroot", xeon).out
    for path, content in read_tree(tmp_path / "out").items():
        if "routes" in path or "generation" in path:
            continue
        body = "".join(f"+{line}\n" for line in content.decode().splitlines())
        assert f"+++ /{path}\n" in shown
        assert body in shown


def test_twice_gives_the_same_bytes(ctl: Ctl, config: Path, xeon: Path, tmp_path: Path) -> None:
    arguments = ("render", "--config", config, "--sysroot", xeon, "--output", tmp_path / "out")
    ctl(*arguments)
    first = read_tree(tmp_path / "out")
    assert ctl(*arguments).status == 0
    assert read_tree(tmp_path / "out") == first


def test_another_configuration_replaces_the_files(
    ctl: Ctl, config: Path, xeon: Path, model: Path, tmp_path: Path
) -> None:
    ctl("render", "--config", config, "--sysroot", xeon, "--output", tmp_path / "out")
    write_config(tmp_path, POOL.format(model=model).replace("chat", "draft") + 'placement = "whole"\n')
    ctl("render", "--config", config, "--sysroot", xeon, "--output", tmp_path / "out")
    assert not [path for path in read_tree(tmp_path / "out") if "chat" in path]
    assert not list((tmp_path / "out").rglob("ovms@chat*"))


@pytest.mark.parametrize("output", ["/", "/./", "/etc", "/proc/self/root"])
def test_directories_of_the_machine_are_refused(output: str, ctl: Ctl, config: Path) -> None:
    refused = ctl("render", "--config", config, "--output", output)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith(f"ovms-scalerctl: cannot render to '{output.rstrip('./') or '/'}")
    assert "hint: " in refused.err


def test_nothing_is_written_for_a_bad_configuration(ctl: Ctl, tmp_path: Path) -> None:
    file = write_config(tmp_path, "[[pool]]\n")
    assert ctl("render", "--config", file, "--output", tmp_path / "out").status == 1
    assert not (tmp_path / "out").exists()


def test_no_pool_is_no_file(ctl: Ctl, tmp_path: Path) -> None:
    file = write_config(tmp_path, "")
    done = ctl("render", "--config", file, "--output", tmp_path / "out")
    assert (done.status, done.out) == (0, "")
    assert read_tree(tmp_path / "out") == {}


def test_a_place_that_cannot_be_written_to_is_told(ctl: Ctl, config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = ctl("render", "--config", config, "--output", tmp_path / "file/out")
    assert refused.status == 1
    assert "cannot write" in refused.err


def test_json_lists_the_files(ctl: Ctl, config: Path, tmp_path: Path) -> None:
    rendered = ctl("render", "--config", config, "--output", tmp_path / "out", "--json")
    assert (rendered.status, rendered.err) == (0, "")
    files = rendered.json()["files"]
    assert files == sorted(files)
    assert all((tmp_path / "out" / path.lstrip("/")).is_file() for path in files)
