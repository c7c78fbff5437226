# SPDX-License-Identifier: Apache-2.0
"""What takes a file's or a model's place is told from it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ovms_scaler.host.identity import read_identity


@pytest.fixture(name="model")
def directory(tmp_path: Path) -> Path:
    model = tmp_path / "srv/model"
    (model / "sub").mkdir(parents=True)
    (model / "weights.bin").write_text("old")
    (model / "config.json").write_text("{}")
    return model


def replaced(path: Path, text: str) -> None:
    """As a package does it, which also gives the file an old time."""
    before = path.stat()
    new = path.with_suffix(".new")
    new.write_text(text)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced by a file of the same size and time": lambda model: replaced(model / "weights.bin", "new"),
    "written anew": lambda model: (model / "weights.bin").write_text("longer"),
    "written later": lambda model: os.utime(model / "weights.bin", (1, 1)),
    "one more": lambda model: (model / "other.bin").write_text(""),
    "one less": lambda model: (model / "config.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_directory_is_another_when_a_file_in_it_is(model: Path, change: str, tmp_path: Path) -> None:
    before = read_identity("/srv/model", tmp_path)
    assert before == read_identity("/srv/model", tmp_path) != ""
    CHANGES[change](model)
    assert read_identity("/srv/model", tmp_path) not in ("", before)


def test_what_lies_deeper_is_not_looked_at(model: Path, tmp_path: Path) -> None:
    before = read_identity("/srv/model", tmp_path)
    (model / "sub/file").write_text("new")
    assert read_identity("/srv/model", tmp_path) == before


def test_a_link_is_what_it_leads_to(model: Path, tmp_path: Path) -> None:
    (tmp_path / "program").symlink_to(model / "weights.bin")
    before = read_identity("/program", tmp_path)
    (tmp_path / "program").unlink()
    (tmp_path / "program").symlink_to(model / "config.json")
    assert read_identity("/program", tmp_path) != before


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert read_identity("/srv/none", tmp_path) == ""
