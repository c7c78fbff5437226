# SPDX-License-Identifier: Apache-2.0
"""Classic models: numbered version directories holding an OpenVINO IR or ONNX file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.standin.ovms_standin.engine import EngineError
from lab.standin.ovms_standin.servables import Port

if TYPE_CHECKING:
    import openvino

_SUFFIXES: Final = (".xml", ".onnx")
# OpenVINO's element type names in KServe's words.
_DATATYPES: Final = {
    "f32": "FP32",
    "f16": "FP16",
    "i64": "INT64",
    "i32": "INT32",
    "i8": "INT8",
    "u8": "UINT8",
}


def newest_version(base_path: Path) -> int | None:
    """The highest numbered directory; None when there is none (or no base_path at all)."""
    try:
        names = [path.name for path in base_path.iterdir() if path.is_dir()]
    except OSError:
        return None
    return max(
        (int(name) for name in names if name.isascii() and name.isdigit() and int(name) > 0), default=None
    )


def find_model_file(version_dir: Path) -> Path:
    """Raises EngineError when there is no model file."""
    files = sorted(path for path in version_dir.iterdir() if path.suffix in _SUFFIXES)
    if not files:
        raise EngineError(f"Could not find file for model in path: {version_dir}")
    return files[0]


def compile_model(
    path: Path,
    *,
    device: str,
    properties: Mapping[str, object],
) -> tuple[object, tuple[Port, ...], tuple[Port, ...]]:
    """The compiled model, its inputs and its outputs. Blocks. Raises EngineError in OpenVINO's words."""
    import openvino

    try:
        compiled = openvino.Core().compile_model(str(path), device, dict(properties))
    except RuntimeError as exc:
        raise EngineError(str(exc).strip()) from exc
    return compiled, tuple(map(_port, compiled.inputs)), tuple(map(_port, compiled.outputs))


def _port(output: "openvino.ConstOutput") -> Port:
    shape = output.get_partial_shape()
    sizes = tuple(-1 if dimension.is_dynamic else dimension.get_length() for dimension in shape)
    kind = output.get_element_type().get_type_name()
    return Port(name=output.get_any_name(), datatype=_DATATYPES.get(kind, kind.upper()), shape=sizes)
