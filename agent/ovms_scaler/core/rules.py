# SPDX-License-Identifier: Apache-2.0
"""From a TOML document to a Spec: the rules that combine several keys, and every problem at once."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ovms_scaler.core.spec import Placement, Pool, Proxy, ProxyMode, Spec
from ovms_scaler.core.spec_engine import Graph
from ovms_scaler.core.table import Reader
from ovms_scaler.core.values import VARIABLE
from ovms_scaler.errors import ConfigError

# Arguments of ovms that follow from the plan; given twice they would contradict it.
_OWN_FLAGS = {
    "--rest_port": "ports are remembered per instance; engine.first_port says where they begin",
    "--port": "gRPC is not balanced and stays off",
    "--rest_bind_address": "instances listen on 127.0.0.1 only; clients use listen",
    "--rest_workers": "use ovms.rest_workers",
    "--model_name": "use model_name",
    "--model_path": "use model_path",
    "--config_path": "use config_path",
    "--target_device": "the device follows from placement",
    "--api_key_file": "use proxy.api_key_file: the engines are asked by the agent too, which has no key",
    "--metrics_enable": "metrics are always on",
    "--cache_dir": "each instance on GPUs has a cache of its own below /var/cache/ovms",
    "--cache_size": "use graph.cache_size",
    "--max_num_seqs": "use graph.max_num_seqs",
    "--max_num_batched_tokens": "use graph.max_num_batched_tokens",
    "--dynamic_split_fuse": "use graph.dynamic_split_fuse",
    "--enable_prefix_caching": "use graph.enable_prefix_caching",
    "--kv_cache_precision": "use graph.kv_cache_precision",
    "--pipeline_type": "use graph.pipeline_type",
    "--tool_parser": "use graph.tool_parser",
    "--reasoning_parser": "use graph.reasoning_parser",
    "--task": "it would make ovms ignore the graph that places the model",
    "--plugin_config": "other properties belong into the model's graph.pbtxt",
    "--log_path": "the journal has the log; a file would grow without end",
}
# Variables that ovms takes for such arguments.
_OWN_VARIABLES = {"API_KEY": _OWN_FLAGS["--api_key_file"]}
# What a pool can say that its placement has no use for.
_OF_GPUS = ("gpus", "gpus_per_instance", "host_cpus_per_gpu")
WITHOUT_EFFECT = {
    Placement.numa: _OF_GPUS,
    Placement.gpu: ("instances_per_node", "gpus_per_instance"),
    Placement.hetero: ("instances_per_node",),
    Placement.whole: ("nodes", "instances_per_node", "reserve_cpus", *_OF_GPUS),
}
_DEFAULTS = {field.name: field.default for field in fields(Pool)}


def parse_spec(document: Mapping[str, Any], reader: Reader) -> Spec:
    """The configuration from its TOML document.

    Raises ConfigError with every problem that is found in it.
    """
    spec = reader.read_table(Spec, document, "")
    # Also with mistakes elsewhere, so that one look shows all there are.
    pools = {path: table for path, table in reader.tables.items() if isinstance(table, Pool)}
    for path, pool in pools.items():
        _check_pool(pool, path, reader)
    _check_names(pools, reader)
    if isinstance(proxy := reader.tables.get("proxy"), Proxy):
        _check_proxy(proxy, reader)
    if reader.problems or spec is None:
        raise ConfigError(reader.problems)
    return spec


def _check_pool(pool: Pool, here: str, reader: Reader) -> None:
    single = [name for name in ("model_name", "model_path") if getattr(pool, name) is not None]
    if pool.config_path is not None and single:
        reader.problem(
            f"{here}.config_path",
            f"excludes {' and '.join(single)}, and both are given",
            "config_path is for several models in one OVMS config.json",
        )
    elif pool.config_path is None and len(single) < 2:
        missing = "model_path" if "model_name" in single else "model_name"
        reader.problem(
            f"{here}.{missing}", "is required and missing", "give model_name and model_path, or config_path"
        )
    if pool.config_path is not None and pool.graph != Graph():
        reader.problem(
            f"{here}.graph",
            "has no effect with config_path",
            "set these options in the graph.pbtxt of each model of that config.json",
        )
    for name in WITHOUT_EFFECT[pool.placement]:
        if getattr(pool, name) != _DEFAULTS[name]:
            rule = f'has no effect with placement = "{pool.placement}"'
            reader.problem(f"{here}.{name}", rule, "remove it")
    for name in pool.ovms.environment:
        if VARIABLE.fullmatch(name) is None:
            reader.problem(
                f"{here}.ovms.environment",
                f"has a variable named {name!r}, which systemd refuses",
                "names are letters, digits and '_', not starting with a digit",
            )
        elif name in _OWN_VARIABLES:
            reader.problem(f"{here}.ovms.environment", f"must not contain {name!r}", _OWN_VARIABLES[name])
    for flag in pool.ovms.flags:
        option = flag.split("=", 1)[0]
        if option in _OWN_FLAGS:
            reader.problem(f"{here}.ovms.flags", f"must not contain {option!r}", _OWN_FLAGS[option])


def _check_names(pools: Mapping[str, Pool], reader: Reader) -> None:
    first: dict[str, str] = {}
    for path, pool in pools.items():
        if pool.name in first:
            reader.problem(
                f"{path}.name",
                f"{pool.name!r} is the name of {first[pool.name]} already",
                "every pool needs a name of its own",
            )
        first.setdefault(pool.name, path)


def _check_proxy(proxy: Proxy, reader: Reader) -> None:
    names = ("tls_certificate", "tls_certificate_key")
    for name, other in (names, names[::-1]):
        if getattr(proxy, name) is None and getattr(proxy, other) is not None:
            reader.problem(
                f"proxy.{name}", f"is required with {other}, and missing", "TLS needs both, or neither"
            )
    if proxy.api_key_file is not None and proxy.mode is ProxyMode.stream:
        reader.problem(
            "proxy.api_key_file",
            'has no effect with mode = "stream", which passes connections on and looks at no request',
            'use mode = "http", or keep clients away by other means and remove it',
        )
