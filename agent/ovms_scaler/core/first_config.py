# SPDX-License-Identifier: Apache-2.0
"""The first configuration of a host: what of it follows from what was found there, and its text."""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from posixpath import normpath
from typing import Any

from ovms_scaler.core.books import Books
from ovms_scaler.core.gpus import share_gpus
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.rules import WITHOUT_EFFECT
from ovms_scaler.core.spec import Placement, Pool, Proxy, Spec
from ovms_scaler.core.spec_engine import Engine, Graph
from ovms_scaler.core.topology import Gpu, Topology

WIDTH = 80
# Pools are named by what they do, and the one on GPUs beside one on CPUs by where it is.
_CHAT, _OTHER, _CARDS = "chat", "model", "cards"
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,254}")
# What people look for first; ovms-scaler.toml(5) has all.
_POOL_KEYS = (
    "placement", "listen", "nodes", "gpus", "gpus_per_instance", "host_cpus_per_gpu", "reserve_cpus",
    "waiting_room",
)  # fmt: skip
_GRAPH_KEYS = ("cache_size", "max_num_seqs", "tool_parser", "reasoning_parser")
_ENGINE_KEYS = ("binary", "library_path")
_PROXY_KEYS = ("api_key_file", "tls_certificate", "tls_certificate_key")
_HEAD = """\
# Configuration of ovms-scaler, as written by "ovms-scalerctl init".
# Files in config.d/*.toml beside it are read after this one.
#
# After each change:
#     ovms-scalerctl check-config     finds mistakes
#     ovms-scalerctl plan             shows what would be done, and does nothing
#     systemctl reload ovms-scaler    keeps what is in force if this is wrong
#
# Lines "#key = value" show a key with its default, or with an example where it
# says so. There are more keys: man ovms-scaler.toml
"""


class Where(StrEnum):
    """Where a model is to run: a placement, or ``both`` on CPUs and on GPUs, behind the same address."""

    numa = "numa"
    gpu = "gpu"
    both = "both"
    hetero = "hetero"
    whole = "whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """What the first configuration is to say; ``model_name`` is None exactly with a config.json."""

    model: ModelFacts
    model_name: str | None
    where: Where
    listen: str
    binary: str


def suggest_name(path: str, searched: Iterable[str]) -> str | None:
    """The name of the model in ``path``, None when it has characters that no name may have.

    ``ovms --pull`` puts a model in the directory ORG/NAME of its repository, so the name is what ``path`` is
    below the one of the ``searched`` directories that it is in, two levels at most.
    """
    path = normpath(path)
    above = [normpath(one).rstrip("/") + "/" for one in searched]
    around = max((one for one in above if path.startswith(one)), key=len, default="")
    name = "/".join(path.removeprefix(around).split("/")[-2:]) if around else path.rpartition("/")[2]
    return name if _MODEL_NAME.fullmatch(name) else None


def usable_gpus(topology: Topology) -> tuple[Gpu, ...]:
    """The GPUs that a pool with nothing but ``placement = "gpu"`` would be given and can open now."""
    wanted = Spec(pool=(Pool(name=_CARDS, placement=Placement.gpu),))
    shared = share_gpus(wanted, topology, Books()).of[_CARDS]
    return tuple(one.gpu for one in shared if one.gpu is not None and one.gpu.render_node is not None)


def describe_machine(topology: Topology, gpus: tuple[Gpu, ...]) -> str:
    """What there is to place instances on, in a few words."""
    nodes = [node for node in topology.nodes if node.cpus]
    words = [_count(len(nodes), "NUMA node"), _count(len(topology.cores), "core")]
    return ", ".join([*words, _count(len(gpus), "GPU")])


def render_first(first: First, topology: Topology) -> str:
    """The whole file: what is needed is in force, and what is useful stands beside it as comments."""
    pools = list(_pools(first))
    parts = [_HEAD, f"#\n# On this machine: {describe_machine(topology, usable_gpus(topology))} to use.\n"]
    name, placement = pools[0]
    parts += ["\n[[pool]]\n", *_render_pool(first, name, placement)]
    if first.model.generates and first.model.kind is not ModelKind.config:
        parts += ["\n", *_render_table("pool.graph", Graph, _GRAPH_KEYS, {})]
    for name, placement in pools[1:]:
        given = _needed(first, name, placement)
        parts += ["\n# The same model on the GPUs, behind the same address.\n[[pool]]\n"]
        parts += [f"{key} = {_toml(value)}\n" for key, value in given.items()]
    given = {} if first.binary == Engine().binary else {"binary": first.binary}
    parts += ["\n", *_render_table("engine", Engine, _ENGINE_KEYS, given)]
    parts += ["\n", *_render_table("proxy", Proxy, _PROXY_KEYS, {})]
    return "".join(parts)


def _pools(first: First) -> Iterator[tuple[str, Placement]]:
    name = _CHAT if first.model.generates else _OTHER
    if first.where is Where.both:
        yield name, Placement.numa
        yield _CARDS, Placement.gpu
    else:
        yield name, Placement(first.where.value)


def _needed(first: First, name: str, placement: Placement) -> dict[str, object]:
    """The keys of a pool that are not as they would be anyhow."""
    given: dict[str, object] = {"name": name}
    if first.model.kind is ModelKind.config:
        given["config_path"] = first.model.path
    else:
        given |= {"model_name": first.model_name, "model_path": first.model.path}
    default = Pool(name=name)
    given |= {} if placement is default.placement else {"placement": placement.value}
    return given | ({} if first.listen == default.listen else {"listen": first.listen})


def _render_pool(first: First, name: str, placement: Placement) -> Iterator[str]:
    given = _needed(first, name, placement)
    keys = [key for key in _POOL_KEYS if key not in WITHOUT_EFFECT[placement]]
    return _render_keys(Pool, (*(key for key in given if key not in keys), *keys), given)


def _render_table(name: str, cls: Any, keys: Iterable[str], given: Mapping[str, object]) -> Iterator[str]:
    """A table, which is in force only when one of its keys is."""
    yield f"{'' if given else '#'}[{name}]\n"
    yield from _render_keys(cls, keys, given)


def _render_keys(cls: Any, keys: Iterable[str], given: Mapping[str, object]) -> Iterator[str]:
    known = {field.name: field for field in fields(cls)}
    for key in keys:
        doc = known[key].metadata["key"].doc
        if key in given:
            yield f"{_comment(doc)}{key} = {_toml(given[key])}\n"
        elif _has_default(known[key]):
            yield f"{_comment(doc)}#{key} = {_toml(known[key].default)}\n"
        else:
            yield f"{_comment(f'{doc} (Example)')}#{key} = {known[key].metadata['key'].example}\n"


def _has_default(field: "Field[Any]") -> bool:
    """Whether leaving the key out is the same as giving it some value."""
    return field.default is not MISSING and field.default not in (None, "", ())


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _toml(value: object) -> str:
    """A string or number. The escapes of JSON are among those of TOML's basic strings."""
    return json.dumps(value, ensure_ascii=False)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' if number > 1 else ''}"
