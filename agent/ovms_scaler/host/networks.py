# SPDX-License-Identifier: Apache-2.0
"""Looks into OpenVINO's files for what a broken copy or download leaves behind."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ovms_scaler.core.checks.model import IrFile
from ovms_scaler.host import files

# The .xml of a large language model has some ten MB.
_MAX_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_OVERLAP_BYTES = 256
# A constant's place in the .bin, as ov::pass::Serialize writes it.
_CONSTANT = re.compile(rb'offset="(\d{1,15})" size="(\d{1,15})"')
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_POINTER = b"version https://git-lfs.github.com/spec/"


def read_networks(directories: Iterable[str], root: Path = Path("/")) -> tuple[IrFile, ...]:
    """Every network in the directories and one level below. Raises OSError."""
    found = {
        file.resolve(): f"{directory.rstrip('/')}/{file.relative_to(files.below(root, directory))}"
        for directory in directories
        for file in _list(files.below(root, directory))
    }
    return tuple(_read_network(shown, file) for file, shown in sorted(found.items()))


def _list(directory: Path) -> Iterator[Path]:
    yield from (
        file for pattern in ("*.xml", "*/*.xml") for file in directory.glob(pattern) if file.is_file()
    )


def _read_network(shown: str, file: Path) -> IrFile:
    weights = file.with_suffix(".bin")
    size = weights.stat().st_size if weights.is_file() else None
    needed, tail, is_pointer, position = 0, b"", False, 0
    with file.open("rb") as stream:
        while position < _MAX_BYTES and (block := stream.read(_BLOCK_BYTES)):
            is_pointer = is_pointer or (position == 0 and block.startswith(_POINTER))
            position += len(block)
            text = tail + block
            for match in _CONSTANT.finditer(text):
                needed = max(needed, int(match[1]) + int(match[2]))
            tail = text[-_OVERLAP_BYTES:]
    if size is not None and size < _OVERLAP_BYTES:
        is_pointer = is_pointer or weights.read_bytes().startswith(_POINTER)
    return IrFile(
        path=shown,
        needed_bytes=needed,
        weights_bytes=size,
        is_pointer=is_pointer,
        is_whole=position >= _MAX_BYTES or tail.rstrip().endswith((b"</net>", b"/>")),
    )
