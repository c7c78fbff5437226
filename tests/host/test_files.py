# SPDX-License-Identifier: Apache-2.0
"""Files are there whole, as they were or as they are to be, and what fails says why."""

import os
import stat
import threading
from pathlib import Path

import pytest

from ovms_scaler.errors import HostError
from ovms_scaler.host import files


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_write_makes_directories_and_a_file_that_everybody_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    assert files.write_text(path, "text\n")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("text\n", 0o644)
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("durable", [False, True], ids=["in memory", "on disk"])
def test_durable_write_waits_for_the_text_and_for_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    synced: list[bool] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    files.write_text(tmp_path / "file", "text", durable=durable)
    assert synced == ([False, True] if durable else [])


@pytest.mark.parametrize("durable", [False, True], ids=["in memory", "on disk"])
def test_write_of_the_same_text_touches_nothing(tmp_path: Path, *, durable: bool) -> None:
    path = tmp_path / "file"
    files.write_text(path, "same", durable=durable)
    before = path.stat()
    assert not files.write_text(path, "same", durable=durable)
    assert path.stat() == before
    assert files.write_text(path, "other", durable=durable)
    assert path.stat().st_ino != before.st_ino


def test_write_replaces_what_cannot_be_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe")
    assert files.write_text(path, "text")
    assert path.read_text() == "text"


def test_write_replaces_a_link_and_not_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    assert files.write_text(tmp_path / "file", "ours")
    assert (tmp_path / "elsewhere").read_text() == "theirs"
    assert not (tmp_path / "file").is_symlink()


def test_a_reader_sees_the_old_text_or_the_new_one(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", ("a" * 100_000, "b" * 100_000)
    files.write_text(path, texts[0])
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(200):
        files.write_text(path, texts[number % 2])
    done.set()
    reader.join()
    assert seen <= set(texts)


@pytest.mark.parametrize(
    ("target", "why"),
    [("file/below", "File exists"), ("directory", "Is a directory")],
    ids=["below a file", "where a directory is"],
)
def test_write_that_fails_says_why_and_leaves_nothing(tmp_path: Path, target: str, why: str) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "directory").mkdir()
    with pytest.raises(HostError, match=rf"^cannot write {tmp_path}/{target}: {why}"):
        files.write_text(tmp_path / target, "text")
    assert names(tmp_path) == ["directory", "file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_write_to_a_file_system_that_takes_none_says_so() -> None:
    with pytest.raises(HostError, match=r"^cannot write /proc/1/nothing: "):
        files.write_text(Path("/proc/1/nothing"), "text")


def test_read_tells_a_missing_file_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    assert files.read_text(tmp_path / "missing") is None
    (tmp_path / "text").write_text("text")
    assert files.read_text(tmp_path / "text") == "text"
    with pytest.raises(HostError, match=rf"^cannot read {tmp_path}: Is a directory$"):
        files.read_text(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(HostError, match="invalid start byte"):
        files.read_text(tmp_path / "bytes")


def test_many_files_are_written_and_read_below_a_root(tmp_path: Path) -> None:
    texts = {"/run/a": "1", "/etc/b/c": "2"}
    assert files.write_all(tmp_path, texts) == ("/run/a", "/etc/b/c")
    assert files.write_all(tmp_path, {**texts, "/run/a": "3"}) == ("/run/a",)
    assert files.read_all(tmp_path, [*texts, "/run/missing"]) == {"/run/a": "3", "/etc/b/c": "2"}
    assert files.below(tmp_path, "/etc/b") == tmp_path / "etc/b"


def test_remove_empty_keeps_what_holds_something(tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "override.conf").touch()
    for name in ("empty", "full", "missing"):
        files.remove_empty(tmp_path / name)
    assert names(tmp_path) == ["full"]
    assert os.listdir(tmp_path / "full") == ["override.conf"]
