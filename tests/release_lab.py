# SPDX-License-Identifier: Apache-2.0
"""Archives in the layout of OVMS's releases, and programs in them that say a version."""

import io
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovms_scaler.core.release_check import Ran, System
from ovms_scaler.core.unit import drop_in_path
from ovms_scaler.releases.releases import Releases
from ovms_scaler.releases.trying import Trying

BOOKWORM = System(id="debian", version="12", name="Debian GNU/Linux 12 (bookworm)", glibc="2.36")
BANNER = """\
#!/bin/sh
echo "OpenVINO Model Server {version}.0123456ab"
echo "OpenVINO backend {version}-1234"
echo "Bazel build flags: --config=mp_on_py_{python}"
"""


def program(version: str, *, python: bool = False) -> str:
    """A script that answers --version as OVMS does."""
    return BANNER.format(version=version, python="on" if python else "off")


def release_files(version: str, *, python: bool = False) -> dict[str, str]:
    return {
        "ovms/bin/ovms": program(version, python=python),
        "ovms/lib/libopenvino.so": f"the libraries of {version}",
        "ovms/LICENSE": "Apache-2.0",
    }


def member(name: str, **changes: object) -> tarfile.TarInfo:
    """A file of an archive, but for ``changes``."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def write_archive(
    path: Path,
    files: Mapping[str, str],
    more: Sequence[tarfile.TarInfo] = (),
    *,
    executable: str = "bin/ovms",
) -> Path:
    """A .tar.gz of these files and of further members."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = member(name, size=len(text), mode=0o755 if name.endswith(executable) else 0o644)
            tar.addfile(info, io.BytesIO(text.encode()))
        for info in more:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def unpack_by_hand(root: Path, version: str) -> None:
    """What README says: tar -xz -C /opt."""
    for name, text in release_files(version).items():
        path = root / name.removeprefix("ovms/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


def run_here(_directory: Path, *arguments: str) -> Ran:
    """The trial without systemd."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return Ran(output=output, result="success")
    return Ran(output=output, result="exit-code", status=done.returncode)


def answering(*outcomes: Ran) -> Trying:
    """Trials on Debian 12 that end one after the other as told."""
    left = list(outcomes)
    return Trying(lambda *_: left.pop(0), BOOKWORM)


class Lab:
    """A directory of releases below ``directory``, and a host with drop-ins."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "opt/ovms"
        self.host = directory / "host"
        self.releases = Releases(self.root, trying=Trying(run_here, BOOKWORM), host=self.host)

    def archive(self, version: str, *, python: bool = False) -> Path:
        path = self.directory / f"ovms_{version}_{python}.tar.gz"
        if not path.exists():  # gzip notes the time: it would be another one
            write_archive(path, release_files(version, python=python))
        return path

    def install(self, version: str, *, python: bool = False, force: bool = False) -> str:
        """Unpacked and tried, not taken into use; its name."""
        archive = self.archive(version, python=python)
        installed = self.releases.install(archive, sha256=None, force=force, report=lambda *_: None)
        return installed.name

    def plan(self, instance: str, release: str) -> None:
        """A drop-in as the agent would write it for the release, "" for ROOT/bin."""
        path = self.host / drop_in_path(instance).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        home = self.root / release if release else self.root
        path.write_text(f"[Service]\nExecStart=\nExecStart={home}/bin/ovms \\\n    --rest_port 8003\n")

    def program(self) -> str:
        """What ROOT/bin/ovms is."""
        return (self.root / "bin/ovms").read_text()
