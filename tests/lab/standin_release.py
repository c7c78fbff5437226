# SPDX-License-Identifier: Apache-2.0
"""The stand-in as an archive in the layout of OVMS's releases, of any version, with the simulated engine."""

import io
import tarfile
from pathlib import Path

from lab import paths

SOURCES = paths.LAB / "standin"
# Says its version, and then does not take any arguments: so that only who starts an instance finds out.
UNUSABLE = """\
import sys
if sys.argv[1:] != ["--version"]:
    sys.exit(64)
"""
# Ends as the dynamic linker does where glibc is too old.
UNLOADABLE = """\
import sys
sys.exit(f"{sys.argv[0]}: /lib/libc.so.6: version `GLIBC_2.99' not found (required by {sys.argv[0]})")
"""


def write_release(path: Path, version: str, *, sabotage: str = "") -> Path:
    """A .tar.gz with ovms/bin/ovms and ovms/lib; ``sabotage`` is Python that its program begins with."""
    program = (SOURCES / "bin/ovms").read_text().replace('"""A stand-in', f'{sabotage}\n"""A stand-in', 1)
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "ovms/bin/ovms", program, mode=0o755)
        add(tar, "ovms/LICENSE", "SPDX-License-Identifier: Apache-2.0\n")
        for source in sorted((SOURCES / "ovms_standin").glob("*.py")):
            text = source.read_text()
            if source.name == "__init__.py":
                assert '"2026.4.0"' in text
                text = text.replace('"2026.4.0"', f'"{version}"')
            add(tar, f"ovms/lib/python/lab/standin/ovms_standin/{source.name}", text)
    return path


def add(tar: tarfile.TarFile, name: str, text: str, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(text.encode()), mode
    tar.addfile(info, io.BytesIO(text.encode()))
