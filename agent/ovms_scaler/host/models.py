# SPDX-License-Identifier: Apache-2.0
"""Looks at a pool's model on disk."""

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ovms_scaler.core import model as parsing
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.spec import Pool
from ovms_scaler.errors import InputError

SERVICE_USER = "ovms"
MAX_FILE_BYTES = 4 << 20  # of a graph.pbtxt or a config.json; real ones have a few kB
MAX_LINKS = 40  # what the kernel follows too, path_resolution(7)
# What an OpenVINO export of a model without a graph has; speech and image models have other file names.
_LLM_FILES = ("openvino_model.xml", "openvino_language_model.xml")
_CLASSIC_SUFFIXES = (".xml", ".onnx", ".pdmodel", ".pb", ".tflite")
_READ_SUFFIXES = (*_CLASSIC_SUFFIXES, ".bin", ".json", ".pbtxt", ".jinja")


def read_model(pool: Pool, root: Path = Path("/")) -> ModelFacts:
    """The model of ``pool`` as it is now; ``root`` stands for "/" (a fixture, a copied host).

    Never raises OSError: what cannot be read is ``problem``. Whether the instances' own user may read it is
    judged by mode bits alone, so it is a warning only (ACLs and groups may say otherwise).
    """
    path = pool.config_path or pool.model_path or ""
    try:
        facts = _read_config(path, root) if pool.config_path else _read_directory(path, root)
        if facts.problem is None:
            return replace(facts, warnings=facts.warnings + _access_warnings(path, root))
    except OSError as error:
        return _refused(path, f"{error.strerror or error}", _hint_for(error))
    return facts


def _refused(path: str, why: str, hint: str | None = None) -> ModelFacts:
    return ModelFacts(path=path, problem=f"cannot serve {path!r}: {why}", hint=hint)


def _hint_for(error: OSError) -> str | None:
    if isinstance(error, FileNotFoundError):
        return "check the path; a model on a file system that is mounted later appears by itself"
    if isinstance(error, PermissionError):
        return "check the permissions of the path"
    return None


def _inside(path: str, root: Path) -> Path:
    return root / path.lstrip("/")


def _read_text(path: Path) -> str:
    """The file's text. Raises OSError, and InputError when it is no file, too large or not UTF-8."""
    # Who opens a FIFO waits for somebody to write to it; a directory is an OSError when it is opened.
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path.name} is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8 at byte {error.start}") from error


def _read_directory(path: str, root: Path) -> ModelFacts:
    directory = _inside(path, root)
    if not stat.S_ISDIR(directory.stat().st_mode):
        return _refused(path, "it is not a directory", "model_path is the directory that holds the model")
    names = sorted(os.listdir(directory))
    if not names:
        return _refused(path, "the directory is empty", "export or copy the model into it")
    for name in names:
        if name.endswith((".xml", ".bin", ".pbtxt")) and not (directory / name).exists():
            return _refused(path, f"{name!r} in it is a link to nothing", "copy what the link stood for")
    # OVMS looks in both places (mediapipegraphconfig.cpp).
    for below in ("", "1"):
        graph = directory / below / "graph.pbtxt"
        if os.path.lexists(graph):
            return _read_graph(path, graph, f"{path.rstrip('/')}/{below}".rstrip("/"))
    versions = sorted(
        (int(name) for name in names if name.isascii() and name.isdigit() and int(name) > 0), reverse=True
    )
    for version in versions:
        newest = directory / str(version)
        if newest.is_dir() and any(file.suffix in _CLASSIC_SUFFIXES for file in newest.iterdir()):
            return ModelFacts(path=path, kind=ModelKind.classic, weights_bytes=_weights_bytes(newest))
    if any((directory / name).is_file() for name in _LLM_FILES):
        return _read_export(path, directory)
    return _not_a_model(path, names)


def _not_a_model(path: str, names: list[str]) -> ModelFacts:
    if any(name.isascii() and name.isdigit() for name in names):
        return _refused(
            path,
            "no numbered directory in it holds a model",
            "a version directory holds model.xml and model.bin, or another format of OpenVINO",
        )
    if any(name.endswith((".safetensors", ".gguf")) for name in names):
        return _refused(
            path,
            "it holds a model in another format than OpenVINO's",
            "export it with optimum-cli export openvino, or with OVMS's export_model.py",
        )
    if any(name.endswith(".xml") for name in names):
        return _refused(
            path,
            "the model lies in the directory itself, not in a numbered one",
            "move its files to the directory 1 below",
        )
    return _refused(
        path,
        "it has no graph.pbtxt, no openvino_model.xml and no numbered version directory",
        "model_path is the directory that an export to OpenVINO wrote",
    )


def _read_graph(path: str, file: Path, graph_directory: str) -> ModelFacts:
    try:
        text = _read_text(file)
        summary = parsing.parse_graph(text)
    except InputError as error:
        return _refused(
            path,
            f"its graph.pbtxt cannot be understood: {error.message}",
            "export the model again, or correct the file",
        )
    places = [file.parent / models_path for models_path in summary.models_paths]
    for models_path, place in zip(summary.models_paths, places, strict=True):
        if not place.exists():
            return _refused(
                path,
                f"its graph.pbtxt names models_path {models_path!r}, which does not exist",
                "the path is relative to the graph; export the model again, or correct it",
            )
    return ModelFacts(
        path=path,
        kind=ModelKind.graph,
        graph=text,
        graph_directory=graph_directory,
        weights_bytes=_weights_bytes(*places or [file.parent]),
        device=", ".join(summary.devices) or None,
        generates=summary.generates,
    )


def _read_export(path: str, directory: Path) -> ModelFacts:
    config = directory / "config.json"
    try:
        generates = not config.is_file() or parsing.is_generative(_read_text(config))
    except InputError as error:
        return _refused(path, error.message)
    if not generates:
        return _refused(
            path,
            "it is not a model that generates text, and has no graph.pbtxt",
            "export it with OVMS's export_model.py, which writes the graph that fits its task",
        )
    warnings = (
        ()
        if (directory / "openvino_tokenizer.xml").is_file()
        else (f"{path!r} has no openvino_tokenizer.xml, without which OVMS cannot serve text",)
    )
    return ModelFacts(
        path=path,
        kind=ModelKind.llm,
        graph_directory=path.rstrip("/") or "/",
        weights_bytes=_weights_bytes(directory),
        generates=True,
        warnings=warnings,
    )


def _read_config(path: str, root: Path) -> ModelFacts:
    try:
        served = parsing.parse_served(_read_text(_inside(path, root)))
    except IsADirectoryError:
        return _refused(path, "it is a directory", "config_path is an OVMS config.json, not a directory")
    except InputError as error:
        return _refused(path, error.message, error.hint or "OVMS would end with exit status 1 on this file")
    if not served.models:
        return _refused(path, "it names no model", "add one to model_config_list")
    warnings = [f"{path!r} has the key {key!r}, which OVMS may refuse" for key in served.unknown_keys]
    if not served.monitoring:
        warnings.append(f"{path!r} does not enable monitoring.metrics: its engines cannot be measured")
    parts = [(entry, _read_entry(path, entry, root)) for entry in served.models if entry.base_path]
    warnings += [f"{entry.name!r}: {part.problem}" for entry, part in parts if part.problem]
    sizes = [part.weights_bytes for _, part in parts if part.weights_bytes is not None]
    devices = [part.device or entry.device for entry, part in parts]
    return ModelFacts(
        path=path,
        kind=ModelKind.config,
        served_names=tuple(model.name for model in served.models),
        weights_bytes=sum(sizes) if sizes else None,
        monitoring=served.monitoring,
        warnings=tuple(warnings),
        device=", ".join(dict.fromkeys(device for device in devices if device)) or None,
        generates=any(part.generates for _, part in parts),
    )


def _read_entry(path: str, entry: parsing.ServedModel, root: Path) -> ModelFacts:
    """One model of a config.json, whose relative paths start at that file."""
    directory = os.path.normpath(os.path.join(os.path.dirname(path), entry.base_path))
    try:
        if entry.graph_path:
            graph = os.path.normpath(os.path.join(directory, entry.graph_path))
            return _read_graph(directory, _inside(graph, root), os.path.dirname(graph))
        return _read_directory(directory, root)
    except OSError as error:
        return _refused(directory, f"{error.strerror or error}", _hint_for(error))


def _weights_bytes(*places: Path) -> int | None:
    """Sum of the weights in and one level below ``places`` (or of those files), None when there are none.

    Tokenizers are left out: they have no weights, only tables.
    """
    files = {
        Path(os.path.normpath(file))
        for place in places
        for file in ([place] if place.is_file() else [*place.glob("*.bin"), *place.glob("*/*.bin")])
        if file.is_file() and not file.name.endswith("tokenizer.bin")
    }
    return sum(file.stat().st_size for file in files) if files else None


def _access_warnings(path: str, root: Path) -> tuple[str, ...]:
    """A warning that names the first thing on the way to the model that other users cannot pass or read."""
    for shown, mode, is_last in read_components(path, root):
        needed = stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        needed |= stat.S_IROTH if is_last else 0
        if mode & needed != needed:
            return (_closed(shown, mode, "read" if is_last else "pass"),)
    directory = _inside(path, root)
    for file in sorted([*directory.glob("*"), *directory.glob("[0-9]*/*")]):
        is_version = file.name.isdigit() and file.is_dir()
        if not is_version and not (file.suffix in _READ_SUFFIXES and file.is_file()):
            continue
        needed = stat.S_IROTH | (stat.S_IXOTH if is_version else 0)
        if (mode := file.stat().st_mode) & needed != needed:
            return (_closed(f"{path.rstrip('/')}/{file.relative_to(directory)}", mode, "read"),)
    return ()


def _closed(shown: str, mode: int, verb: str) -> str:
    return (
        f"the user {SERVICE_USER!r} cannot {verb} {shown!r} unless its owner, group or ACL allows it "
        f"(mode {stat.S_IMODE(mode):04o})"
    )


def read_components(path: str, root: Path) -> Iterator[tuple[str, int, bool]]:
    """Every component of ``path`` with its mode, links followed as the kernel does, within ``root``."""
    done, todo, links = "/", [part for part in path.split("/") if part], 0
    while todo:
        part = todo.pop(0)
        shown = os.path.normpath(os.path.join(done, part))
        if part in (".", ".."):  # back to where the way led before
            done = shown
            continue
        try:
            mode = os.lstat(_inside(shown, root)).st_mode
            if stat.S_ISLNK(mode) and (links := links + 1) <= MAX_LINKS:
                target = os.readlink(_inside(shown, root))
                done = "/" if target.startswith("/") else done
                todo[:0] = [part for part in target.split("/") if part]
                continue
        except OSError:
            return
        yield shown, mode, not todo
        done = shown
