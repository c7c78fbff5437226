# SPDX-License-Identifier: Apache-2.0
"""Releases beside each other: what is installed, what is in force, and what was unpacked by hand."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from release_lab import BOOKWORM, Lab, answering, program, release_files, unpack_by_hand, write_archive

from ovms_scaler.config import read_config, read_written
from ovms_scaler.core.release_check import LOST_WITHOUT_PYTHON, Ran
from ovms_scaler.errors import ConfigError, HostError, InputError, RefusedError, ScalerError
from ovms_scaler.host import trial
from ovms_scaler.host.releases import read_pinned
from ovms_scaler.offline import preview_target
from ovms_scaler.releases.releases import Releases, find_root, is_taken
from ovms_scaler.releases.trying import Trying

OLD, NEW = "2026.2.0", "2026.3.1"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def refuse(
    lab: Lab, archive: Path, *, sha256: str | None = None, trying: Trying | None = None
) -> ScalerError:
    """Install, which is refused and leaves the directory as it was."""
    before = sorted(lab.root.rglob("*"))
    releases = Releases(lab.root, trying=trying, host=lab.host) if trying else lab.releases
    with pytest.raises(ScalerError) as refused:
        releases.install(archive, sha256=sha256, force=False, report=lambda *_: None)
    assert [path for path in sorted(lab.root.rglob("*")) if path.name != ".lock"] == [
        path for path in before if path.name != ".lock"
    ]
    return refused.value


# Installing


def test_release_is_unpacked_under_its_version_and_not_yet_in_force(lab: Lab) -> None:
    assert lab.install(NEW) == NEW
    assert (lab.root / NEW / "bin/ovms").read_text() == program(NEW)
    assert lab.releases.names() == (NEW,)
    assert lab.releases.current() is None
    assert lab.releases.read_note(NEW)["build"] == "0123456ab"


def test_root_is_made_for_everybody_to_read_whatever_the_umask(lab: Lab) -> None:
    before = os.umask(0o077)
    try:
        lab.install(NEW)
        lab.releases.use(NEW)
    finally:
        os.umask(before)
    for path in (lab.root, lab.root / NEW, lab.root / NEW / "bin"):
        assert path.stat().st_mode & 0o777 == 0o755


def test_same_archive_is_installed_once(lab: Lab) -> None:
    lab.install(NEW)
    inode = (lab.root / NEW).stat().st_ino
    again = lab.releases.install(lab.archive(NEW), sha256=None, force=False, report=lambda *_: None)
    assert (again.name, again.is_new) == (NEW, False)
    assert (lab.root / NEW).stat().st_ino == inode


def test_other_build_of_the_same_version_needs_force_and_is_put_beside(lab: Lab) -> None:
    lab.install(NEW)
    error = refuse(lab, lab.archive(NEW, python=True))
    assert "the same version" in error.message
    assert error.hint is not None
    assert "--force" in error.hint
    assert lab.install(NEW, python=True, force=True) == f"{NEW}-2"
    assert (lab.root / NEW / "bin/ovms").read_text() == program(NEW)


def test_sum_is_compared_before_anything_is_unpacked(lab: Lab) -> None:
    archive = lab.archive(NEW)
    error = refuse(lab, archive, sha256="0" * 64)
    assert "its SHA-256 is" in error.message
    found = error.message.partition("its SHA-256 is ")[2][:64]
    lab.releases.install(archive, sha256=f" {found.upper()}\n", force=False, report=lambda *_: None)


def test_build_without_python_says_what_it_loses(lab: Lab) -> None:
    installed = lab.releases.install(lab.archive(NEW), sha256=None, force=False, report=lambda *_: None)
    assert installed.notes == (LOST_WITHOUT_PYTHON,)
    archive = lab.archive(OLD, python=True)
    assert lab.releases.install(archive, sha256=None, force=False, report=lambda *_: None).notes == ()


def test_release_that_does_not_run_is_refused_with_the_reason(lab: Lab) -> None:
    broken = Ran(output="ovms: /lib/libc.so.6: version `GLIBC_2.38' not found", result="exit-code", status=1)
    error = refuse(lab, lab.archive(NEW), trying=answering(broken))
    assert error.message.startswith("cannot use it here: it needs glibc 2.38")


def test_release_that_lacks_what_it_loads_later_is_refused(lab: Lab) -> None:
    files = release_files(NEW, python=True) | {"ovms/lib/libovmspython.so": "elf"}
    ran = Ran(output=f"OpenVINO Model Server {NEW}.0123456ab\n", result="success")
    late = Ran(output="\tlibpython3.12.so.1.0 => not found\n", result="success")
    error = refuse(lab, write_archive(lab.directory / "a.tar.gz", files), trying=answering(ran, late))
    assert "Python 3.12" in error.message


def test_release_that_cannot_use_gpus_is_taken_with_a_note(lab: Lab) -> None:
    files = release_files(NEW) | {"ovms/lib/libopenvino_intel_gpu_plugin.so": "elf"}
    ran = Ran(output=f"OpenVINO Model Server {NEW}.0123456ab\n", result="success")
    late = Ran(output="\tlibOpenCL.so.1 => not found\n", result="success")
    releases = Releases(lab.root, trying=answering(ran, late), host=lab.host)
    archive = write_archive(lab.directory / "a.tar.gz", files)
    (note,) = releases.install(archive, sha256=None, force=False, report=lambda *_: None).notes
    assert note == (
        "it cannot use GPUs: it needs libOpenCL.so.1, which is not there (apt install ocl-icd-libopencl1)"
    )


@pytest.mark.parametrize(
    "files",
    [
        {"other/README": "no program"},
        {"ovms/bin/ovms": program(NEW)},
        {"ovms/bin/ovms.txt": "not executable", "ovms/lib/x": ""},
        {"ovms/bin/ovms": "#!/bin/sh\necho GNU hello 2.10\n", "ovms/lib/x": ""},
    ],
    ids=["something else", "no libraries", "no program", "another program"],
)
def test_what_is_no_release_is_refused(files: dict[str, str], lab: Lab) -> None:
    lab.install(OLD)
    assert isinstance(refuse(lab, write_archive(lab.directory / "a.tar.gz", files)), InputError)


def test_program_for_another_cpu_is_refused_without_running_it(lab: Lab, tmp_path: Path) -> None:
    other = bytearray(Path("/proc/self/exe").read_bytes()[:64])
    other[18:20] = b"\xf3\x00"  # EM_RISCV of elf.h
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "bin/ovms").write_bytes(bytes(other))
    (tmp_path / "bin/ovms").chmod(0o755)
    with pytest.raises(RefusedError, match="another kind of CPU"):
        answering().check(tmp_path)


def test_directory_that_others_may_change_is_refused(lab: Lab) -> None:
    lab.install(OLD)
    lab.root.chmod(0o777)
    assert "others than root may write" in refuse(lab, lab.archive(NEW)).message


def test_only_one_changes_the_directory_at_a_time(lab: Lab) -> None:
    lab.install(OLD)
    with (lab.root / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another `ovms-scalerctl engine`" in refuse(lab, lab.archive(NEW)).message
    assert lab.install(NEW) == NEW


# Switching


def test_release_in_force_is_reached_by_the_usual_paths(lab: Lab) -> None:
    lab.install(OLD)
    lab.install(NEW)
    assert lab.releases.use(OLD) is None
    assert lab.program() == program(OLD)
    assert lab.releases.use(NEW) == OLD
    assert (lab.program(), read_pinned(lab.root)) == (program(NEW), NEW)
    assert (lab.root / "lib/libopenvino.so").read_text() == f"the libraries of {NEW}"
    assert (lab.releases.current(), lab.releases.previous()) == (NEW, OLD)
    assert lab.releases.use(OLD) == NEW
    assert (lab.releases.current(), lab.releases.previous()) == (OLD, NEW)


def test_release_that_is_not_there_cannot_be_used(lab: Lab) -> None:
    lab.install(OLD)
    with pytest.raises(InputError, match=f"there are: {OLD}"):
        lab.releases.use(NEW)
    with pytest.raises(InputError):
        lab.releases.use("../../etc")


def test_configuration_names_the_release_itself(lab: Lab, tmp_path: Path) -> None:
    lab.install(OLD)
    lab.install(NEW)
    lab.releases.use(OLD)
    file = tmp_path / "config.toml"
    file.write_text(
        f'[engine]\nbinary = "{lab.root}/bin/ovms"\n'
        f'[[pool]]\nname = "chat"\nmodel_name = "m"\nmodel_path = "{tmp_path}"\nplacement = "whole"\n'
    )
    config = read_config(file)
    assert (config.release, find_root(config)) == (OLD, lab.root)
    target, _ = preview_target(config, host=lab.host)
    (drop_in,) = (text for path, text in target.wanted["chat-whole"].files.items() if path.endswith(".conf"))
    assert f"ExecStart={lab.root}/{OLD}/bin/ovms" in drop_in
    assert f"LD_LIBRARY_PATH={lab.root}/{OLD}/lib" in drop_in
    lab.releases.use(NEW)
    assert read_config(file).document() != config.document()
    assert read_written(file).release == ""


def test_current_release_that_is_gone_is_a_mistake_of_the_configuration(lab: Lab, tmp_path: Path) -> None:
    lab.install(OLD)
    lab.install(NEW)
    lab.releases.use(OLD)
    (lab.root / OLD).rename(lab.root / "elsewhere")
    file = tmp_path / "config.toml"
    file.write_text(f'[engine]\nbinary = "{lab.root}/bin/ovms"\n')
    with pytest.raises(ConfigError) as refused:
        read_config(file)
    (problem,) = refused.value.problems
    assert problem.key == "engine.binary"
    assert f"names '{OLD}'" in problem.rule
    lab.releases.use(NEW)
    assert read_config(file).release == NEW


def test_configuration_that_names_one_version_cannot_be_switched(lab: Lab, tmp_path: Path) -> None:
    lab.install(OLD)
    lab.releases.use(OLD)
    file = tmp_path / "config.toml"
    file.write_text(f'[engine]\nbinary = "{lab.root}/{OLD}/bin/ovms"\n')
    with pytest.raises(InputError, match="names one version"):
        find_root(read_written(file))


def test_configuration_that_was_not_taken_is_noticed(lab: Lab, tmp_path: Path) -> None:
    lab.install(OLD)
    file = tmp_path / "config.toml"
    file.write_text(f'[engine]\nbinary = "{lab.root}/bin/ovms"\n')
    note = lab.host / "run/ovms-scaler/accepted.json"
    assert is_taken(read_written(file), lab.host)
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps(read_config(file).document()))
    lab.releases.use(OLD)
    assert is_taken(read_written(file), lab.host)
    file.write_text(file.read_text() + "first_port = 9000\n")
    assert not is_taken(read_written(file), lab.host)


@pytest.mark.parametrize("name", ["2026.3", "2026.3.0-ours"])
def test_release_of_links_is_the_administrator_s_and_stays(name: str, lab: Lab) -> None:
    lab.install(OLD)
    elsewhere, home = lab.directory / "elsewhere", lab.root / name
    unpack_by_hand(elsewhere, name)
    home.mkdir()
    for part in ("bin", "lib"):
        (home / part).symlink_to(elsewhere / part)
    lab.releases.use(name)
    assert (lab.program(), lab.releases.current()) == (program(name), name)
    lab.install(NEW)
    lab.releases.use(NEW)
    lab.releases.use(OLD)
    assert name in lab.releases.names()


@pytest.mark.parametrize("link", [None, "/somewhere", "2026.4/lib", "current/bin"])
def test_directory_of_somebody_else_stays(link: str | None, lab: Lab) -> None:
    (lab.root / "2026.4").mkdir(parents=True)
    if link is not None:
        (lab.root / "2026.4/bin").symlink_to(link)
    lab.install(OLD)
    assert (lab.root / "2026.4").is_dir()
    assert os.path.lexists(lab.root / "2026.4/bin") == (link is not None)


@pytest.mark.parametrize("kept", [None, "current", "previous"])
def test_what_an_interrupted_switch_left_goes_unless_it_is_in_use(kept: str | None, lab: Lab) -> None:
    (lab.root / "2026.4").mkdir(parents=True)
    (lab.root / "2026.4/bin").symlink_to("2026.4/bin")
    if kept is not None:
        (lab.root / kept).symlink_to("2026.4")
    lab.install(OLD)
    assert (lab.root / "2026.4").exists() == (kept is not None)


# What was unpacked by hand


def test_release_unpacked_by_hand_is_what_instances_run(lab: Lab) -> None:
    unpack_by_hand(lab.root, OLD)
    lab.plan("chat-numa0", "")
    assert (lab.releases.current(), lab.releases.names(), read_pinned(lab.root)) == ("", (), "")
    assert lab.releases.planned() == {"chat-numa0": ""}


def test_release_unpacked_by_hand_is_moved_aside_under_who_runs_from_it(lab: Lab) -> None:
    unpack_by_hand(lab.root, OLD)
    (lab.root / "models").mkdir()
    inode = (lab.root / "bin/ovms").stat().st_ino
    lab.plan("chat-numa0", "")
    lab.install(NEW)
    assert lab.releases.use(NEW) == OLD
    # Whoever was started from there finds the same files, until nobody is left.
    assert ((lab.root / "bin/ovms").stat().st_ino, lab.program()) == (inode, program(OLD))
    assert (lab.root / "lib/libopenvino.so").read_text() == f"the libraries of {OLD}"
    assert (lab.releases.names(), read_pinned(lab.root)) == ((NEW, OLD), NEW)
    assert lab.releases.planned() == {"chat-numa0": OLD}
    lab.releases.settle()
    assert lab.program() == program(OLD)
    lab.plan("chat-numa0", NEW)
    lab.releases.settle()
    assert lab.program() == program(NEW)
    assert (lab.root / "models").is_dir()


def test_going_back_to_what_was_unpacked_by_hand_leaves_alone_who_never_left_it(lab: Lab) -> None:
    unpack_by_hand(lab.root, OLD)
    lab.plan("chat-numa0", "")
    lab.plan("chat-numa1", "")
    lab.install(NEW)
    lab.releases.use(NEW)
    lab.plan("chat-numa0", NEW)  # and there it halted
    assert lab.releases.previous() == OLD
    assert lab.releases.use(OLD) == NEW
    # The drop-in of the other one is what it should be, again.
    assert (read_pinned(lab.root), lab.program(), lab.releases.current()) == ("", program(OLD), OLD)
    assert lab.releases.previous() == NEW


def test_release_unpacked_by_hand_later_wins_and_is_moved_aside_in_its_turn(lab: Lab) -> None:
    lab.install(OLD)
    lab.releases.use(OLD)
    for part in ("bin", "lib"):
        (lab.root / part).unlink()  # as GNU tar does where a directory is to be
    unpack_by_hand(lab.root, NEW)
    assert (lab.releases.current(), read_pinned(lab.root)) == ("", "")
    lab.plan("chat-numa0", "")
    assert lab.releases.use(OLD) == NEW
    assert (lab.releases.names(), lab.releases.current()) == ((NEW, OLD), OLD)
    assert lab.program() == program(NEW)


def test_release_unpacked_by_hand_beside_an_installed_one_of_that_version_gets_another_name(
    lab: Lab,
) -> None:
    unpack_by_hand(lab.root, NEW)
    lab.install(NEW)
    lab.releases.use(NEW)
    assert lab.releases.names() == (f"{NEW}-2", NEW)


def test_directory_in_the_way_is_not_touched(lab: Lab) -> None:
    lab.install(NEW)
    (lab.root / "lib").mkdir()
    (lab.root / "lib/mine").write_text("mine")
    with pytest.raises(RefusedError, match="in the way"):
        lab.releases.use(NEW)
    assert (lab.root / "lib/mine").read_text() == "mine"
    assert read_pinned(lab.root) == ""


def test_file_system_that_cannot_exchange_is_told_and_nothing_changed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack_by_hand(lab.root, OLD)
    lab.install(NEW)
    monkeypatch.setattr("ovms_scaler.host.releases._RENAME_EXCHANGE", 1 << 20)
    with pytest.raises(HostError, match="cannot exchange two names") as refused:
        lab.releases.use(NEW)
    assert refused.value.hint is not None
    assert (lab.program(), lab.releases.current()) == (program(OLD), "")
    monkeypatch.undo()
    assert lab.releases.use(NEW) == OLD


# Removing


def test_release_that_nobody_uses_is_removed(lab: Lab) -> None:
    for version in (OLD, NEW):
        lab.install(version)
        lab.releases.use(version)
    lab.releases.remove(OLD)
    assert (lab.releases.names(), lab.releases.previous()) == ((NEW,), None)
    assert sorted(path.name for path in lab.root.iterdir()) == [".lock", NEW, "bin", "current", "lib"]


def test_release_in_use_is_not_removed(lab: Lab) -> None:
    for version in ("2026.1.0", OLD, NEW):
        lab.install(version)
    lab.releases.use(OLD)
    lab.releases.use(NEW)
    lab.plan("chat-numa0", OLD)
    process = lab.host / "proc/4711"
    process.mkdir(parents=True)
    mapped = lab.root / "2026.1.0/lib/libopenvino.so"
    (process / "maps").write_text(f"7f00-7f01 r-xp 00000000 08:01 42    {mapped}\n")
    for name, why in ((NEW, "the current one"), (OLD, "chat-numa0"), ("2026.1.0", "process 4711")):
        with pytest.raises(RefusedError, match=why):
            lab.releases.remove(name)
    assert len(lab.releases.names()) == 3


def test_release_that_the_usual_paths_still_lead_to_is_not_removed(lab: Lab) -> None:
    unpack_by_hand(lab.root, OLD)
    lab.plan("chat-numa0", "")
    lab.install(NEW)
    lab.releases.use(NEW)
    (lab.host / "run/systemd/system").rename(lab.host / "gone")
    lab.plan("chat-numa1", "")
    with pytest.raises(RefusedError, match="chat-numa1"):
        lab.releases.remove(OLD)


# The trial


@pytest.mark.parametrize(
    ("status", "text", "ran"),
    [
        (
            0,
            "Running as unit: t.service\nOpenVINO Model Server 2026.3.1\nFinished with result: success\n"
            "Main processes terminated with: code=exited/status=0\nService runtime: 12ms\n"
            "CPU time consumed: 9ms\n",
            Ran(output="OpenVINO Model Server 2026.3.1\n", result="success"),
        ),
        (
            255,
            "Running as unit: t.service\nFinished with result: signal\n"
            "Main processes terminated with: code=killed/status=ILL\n",
            Ran(output="", result="signal", signal="ILL"),
        ),
        (
            255,
            "Running as unit: t.service; invocation ID: 0123\nFinished with result: core-dump\n"
            "Main processes terminated with: code=dumped, status=11/SEGV\n",
            Ran(output="", result="core-dump", signal="SEGV"),
        ),
        (
            127,
            "oops\nFinished with result: exit-code\n"
            "Main processes terminated with: code=exited/status=127\n",
            Ran(output="oops\n", result="exit-code", status=127),
        ),
        (1, "Finished with result: timeout\n", Ran(output="", result="timeout")),
    ],
)
def test_what_systemd_run_says_is_understood(status: int, text: str, ran: Ran) -> None:
    assert trial.parse_outcome(status, text) == ran


def test_systemd_that_refuses_is_no_fault_of_the_release() -> None:
    with pytest.raises(HostError, match="Unknown assignment"):
        trial.parse_outcome(1, "Unknown assignment: Foo=bar\n")


def test_this_system_is_known() -> None:
    found = trial.read_system()
    assert found.glibc[0].isdigit()
    assert found.name
    assert BOOKWORM.glibc == "2.36"
