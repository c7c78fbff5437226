# SPDX-License-Identifier: Apache-2.0
"""A language model as large as a small real one, made out of the tests' tiny one.

Throughput on a processor depends on how many bytes of weights each token reads and on what is computed
with them, not on what the bytes say: every matrix of the tiny model is repeated until it has the wanted
shape, and what the graph says of shapes is rewritten with it; the layers and what OpenVINO fuses stay as
they were. The words it answers with mean as little as the tiny one's.

The format is OpenVINO's IR, version 11: layers with ports in XML, and the bytes of all constants, which the
XML finds by offset and size (docs.openvino.ai, "OpenVINO IR format").
"""

import hashlib
import json
import os
import shutil
import struct
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

# Dimensions of the tiny model and what becomes of them: half a head, a head, all key heads, the hidden
# state, the inner layer of the feed-forward network. No other dimension of it has one of these numbers.
GROWN = {16: 64, 32: 128, 128: 512, 256: 1024, 416: 8192}
CONFIG_KEYS = ("head_dim", "hidden_size", "intermediate_size")
NETWORK, WEIGHTS, CONFIG = "openvino_model.xml", "openvino_model.bin", "config.json"
INTEGERS = {"i32": "<{}i", "i64": "<{}q"}


@dataclass(slots=True)
class Weights:
    """The bytes of the new model, in the order in which its constants come."""

    old: bytes
    new: bytearray = field(default_factory=bytearray)

    def add(self, content: bytes) -> tuple[int, int]:
        """Where it is: offset and size, in bytes; offsets are multiples of 64, as in OpenVINO's own."""
        self.new += bytes(-len(self.new) % 64)
        offset = len(self.new)
        self.new += content
        return offset, len(content)


def make_model(source: Path, directory: Path) -> Path:
    """The large model's own directory below ``directory``; made, whole or not at all, unless it is there."""
    network = (source / NETWORK).read_bytes()
    digest = hashlib.sha256(network + repr(GROWN).encode()).hexdigest()[:12]
    destination = directory / f"bench-model-{digest}"
    if destination.exists():
        return destination
    new = destination.with_name(f"{destination.name}.new-{os.getpid()}")
    try:
        shutil.copytree(source, new)
        write_model(source, new)
        new.rename(destination)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return destination


def write_model(source: Path, destination: Path) -> None:
    """Those files of it that are not the tiny one's."""
    tree = ET.parse(source / NETWORK)
    weights = Weights(old=(source / WEIGHTS).read_bytes())
    for layer in tree.iter("layer"):
        grow_layer(layer, weights)
    tree.write(destination / NETWORK)
    (destination / WEIGHTS).write_bytes(weights.new)
    config = json.loads((source / CONFIG).read_text())
    grown = {key: GROWN[config[key]] for key in CONFIG_KEYS if key in config}
    (destination / CONFIG).write_text(json.dumps(config | grown, indent=2))


def grow_layer(layer: ET.Element, weights: Weights) -> None:
    for dimension in layer.iter("dim"):
        dimension.text = str(grow(int(dimension.text or "")))
    data = layer.find("data")
    if data is None:
        return
    if layer.get("type") == "Const":
        grow_constant(data, weights)
    elif layer.get("type") == "ReadValue":
        data.set("variable_shape", grow_shape(data.attrib["variable_shape"]))


def grow_constant(data: ET.Element, weights: Weights) -> None:
    """Integers are indices and shapes, whose values grow; everything else is weights, whose number does."""
    offset, size = int(data.attrib["offset"]), int(data.attrib["size"])
    content = weights.old[offset : offset + size]
    if (kind := data.attrib["element_type"]) in INTEGERS:
        layout = INTEGERS[kind].format(size // struct.calcsize(INTEGERS[kind].format(1)))
        content = struct.pack(layout, *map(grow, struct.unpack(layout, content)))
    else:
        shape = data.attrib["shape"]
        times = count(grow_shape(shape)) // count(shape)
        remaining = count(grow_shape(shape)) * size // count(shape) - times * size
        content = content * times + content[:remaining]
        data.set("shape", grow_shape(shape))
    data.attrib.update(zip(("offset", "size"), map(str, weights.add(content)), strict=True))


def grow(dimension: int) -> int:
    return GROWN.get(dimension, dimension)


def grow_shape(shape: str) -> str:
    """Of the form ``256, 416`` or ``?,4,?,32``, where ? is not known before there is a request."""
    dimensions = [one.strip() for one in shape.split(",")] if shape else []
    return ", ".join(str(grow(int(one))) if one.isdigit() else one for one in dimensions)


def count(shape: str) -> int:
    """Elements of a shape without unknown dimensions; a scalar has one."""
    product = 1
    for one in shape.split(",") if shape else []:
        product *= int(one)
    return product
