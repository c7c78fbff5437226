# SPDX-License-Identifier: Apache-2.0
"""Archives of strangers: a release comes out whole, and whatever else is in one is refused."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from release_lab import member, release_files, write_archive

from ovms_scaler.errors import HostError, InputError
from ovms_scaler.host import archive
from ovms_scaler.host.archive import open_archive

Unpack = Callable[[Path], Path]


@pytest.fixture
def unpack(tmp_path: Path) -> Unpack:
    """Unpacks into a directory of its own."""

    def call(path: Path) -> Path:
        into = tmp_path / "into"
        into.mkdir()
        with open_archive(path) as opened:
            opened.unpack(into, lambda *_: None)
        return into

    return call


def refuse(unpack: Unpack, path: Path) -> str:
    with pytest.raises(InputError) as refused:
        unpack(path)
    return refused.value.message


def list_tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def test_release_comes_out_below_its_one_directory(tmp_path: Path, unpack: Unpack) -> None:
    links = [
        member("ovms/lib/libazure.so.7", type=tarfile.SYMTYPE, linkname="libazure.so"),
        member("ovms/lib/libtwin.so", type=tarfile.LNKTYPE, linkname="ovms/lib/libopenvino.so"),
        member("ovms/empty", type=tarfile.DIRTYPE, mode=0o700),
    ]
    files = release_files("2026.3.1") | {"ovms/lib/libazure.so": "azure"}
    into = unpack(write_archive(tmp_path / "a.tar.gz", files, links))
    assert {"bin/ovms", "lib/libopenvino.so", "lib/libazure.so.7", "LICENSE", "empty"} <= list_tree(into)
    assert os.readlink(into / "lib/libazure.so.7") == "libazure.so"
    assert (into / "lib/libazure.so.7").read_text() == "azure"
    assert (into / "lib/libtwin.so").read_text() == "the libraries of 2026.3.1"


def test_rights_and_owner_are_ours_whatever_the_archive_and_umask_say(
    tmp_path: Path, unpack: Unpack
) -> None:
    odd = [
        member("ovms/lib/open", mode=0o666, uid=1234),
        member("ovms/secret", type=tarfile.DIRTYPE, mode=0o000),
    ]
    before = os.umask(0o077)
    try:
        into = unpack(write_archive(tmp_path / "a.tar.gz", release_files("1"), odd))
    finally:
        os.umask(before)
    modes = {
        name: stat.S_IMODE((into / name).stat().st_mode)
        for name in ("bin/ovms", "lib/open", "lib", "secret")
    }
    assert modes == {"bin/ovms": 0o755, "lib/open": 0o644, "lib": 0o755, "secret": 0o755}
    assert (into / "lib/open").stat().st_uid == os.geteuid()


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (member("/etc/cron.d/x"), "its path leaves the archive"),
        (member("../x"), "its path leaves the archive"),
        (member("ovms/../../x"), "its path leaves the archive"),
        (member("ovms/lib/x", mode=0o4755), "with the rights of its owner"),
        (member("ovms/lib/x", mode=0o2755), "with the rights of its owner"),
        (member("ovms/lib/x", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "a device or a pipe"),
        (member("ovms/lib/x", type=tarfile.BLKTYPE), "a device or a pipe"),
        (member("ovms/lib/x", type=tarfile.FIFOTYPE), "a device or a pipe"),
        (member("ovms/lib/x", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "which is outside of it"),
        (member("ovms/lib/x", type=tarfile.SYMTYPE, linkname="../../../x"), "which is outside of it"),
        (member("ovms/x", type=tarfile.SYMTYPE, linkname=".."), "which is outside of it"),
        (member("ovms/lib/x", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "which is no file in it"),
        (member("ovms/lib/x", type=tarfile.LNKTYPE, linkname="ovms/../../x"), "which is no file in it"),
        (member("ovms/lib/x", type=tarfile.LNKTYPE, linkname="other/bin/ovms"), "which is no file in it"),
        (member("ovms/bin/ovms"), "it is there twice"),
        (member("elsewhere/x"), "a release is one directory"),
    ],
)
def test_what_does_not_belong_into_a_release_is_refused(
    info: tarfile.TarInfo, why: str, tmp_path: Path, unpack: Unpack
) -> None:
    path = write_archive(tmp_path / "a.tar.gz", release_files("1"), [info])
    assert why in refuse(unpack, path)
    assert list_tree(tmp_path) - {f"into/{name}" for name in list_tree(tmp_path / "into")} == {
        "a.tar.gz",
        "into",
    }


def test_nothing_is_written_through_a_link_of_the_archive(tmp_path: Path, unpack: Unpack) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    trick = [
        member("ovms/lib/way", type=tarfile.SYMTYPE, linkname=str(outside)),
        member("ovms/lib/way/x", size=3),
    ]
    assert "behind a link" in refuse(unpack, write_archive(tmp_path / "a.tar.gz", release_files("1"), trick))
    assert list(outside.iterdir()) == []


def test_chain_of_links_that_leaves_is_refused(tmp_path: Path, unpack: Unpack) -> None:
    # Each for itself leads to a place inside by its text.
    chain = [
        member("ovms/a/b/c/d", type=tarfile.DIRTYPE),
        member("ovms/deep", type=tarfile.SYMTYPE, linkname="a/b"),
        member("ovms/a/b/out", type=tarfile.SYMTYPE, linkname="../../deep/../../../.."),
    ]
    assert "outside of it" in refuse(unpack, write_archive(tmp_path / "a.tar.gz", release_files("1"), chain))


def test_archive_is_bounded(tmp_path: Path, unpack: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path / "a.tar.gz", release_files("1"))
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    assert "more than 2 files" in refuse(unpack, path)


def test_archive_that_grows_when_unpacked_is_refused_before_it_is_written(
    tmp_path: Path, unpack: Unpack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 16)
    path = write_archive(tmp_path / "a.tar.gz", release_files("1"), [member("ovms/lib/zeros", size=1 << 20)])
    assert path.stat().st_size < 1 << 14
    assert "GiB in it" in refuse(unpack, path)
    assert not (tmp_path / "into/lib/zeros").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", bytes(1024), b"\x1f\x8b\x08\x00garbage"],
    ids=["empty", "a web page", "zeros", "broken gzip"],
)
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path, unpack: Unpack) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    if content == bytes(1024):
        assert list(unpack(path).iterdir()) == []  # an archive of nothing
    else:
        assert "cannot unpack" in refuse(unpack, path)


def test_download_that_broke_off_is_refused(tmp_path: Path, unpack: Unpack) -> None:
    path = tmp_path / "a.tar.gz"
    noise = member("ovms/lib/noise", size=1 << 18)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(noise, io.BytesIO(os.urandom(1 << 18)))
    path.write_bytes(path.read_bytes()[: -(1 << 16)])
    assert "cannot unpack" in refuse(unpack, path)


def test_sum_is_that_of_the_file_that_was_opened(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tar.gz", release_files("1"))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    reports: list[tuple[int, int]] = []
    with open_archive(path) as opened:
        path.unlink()
        path.write_bytes(b"another file under its name")
        assert opened.read_sha256(lambda done, total: reports.append((done, total))) == expected
        into = tmp_path / "into"
        into.mkdir()
        opened.unpack(into, lambda *_: None)
    assert (into / "bin/ovms").exists()
    assert reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize("path", ["missing", ".", "/dev/null"])
def test_what_is_no_file_cannot_be_opened(path: str, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot read"), open_archive(tmp_path / path):
        pass
