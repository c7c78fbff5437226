# SPDX-License-Identifier: Apache-2.0
"""The tables of the configuration that are about the engine itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ovms_scaler.core.table import key
from ovms_scaler.core.values import ABSOLUTE, ABSOLUTE_RULE, PROGRAM, PROGRAM_RULE

DEFAULT_MAX_NUM_SEQS = 256  # of LLMCalculatorOptions, llm_calculator.proto in OVMS


class PipelineType(StrEnum):
    """The engine's pipelines for text, PipelineType in llm_calculator.proto."""

    AUTO = "AUTO"
    LM = "LM"
    VLM = "VLM"
    LM_CB = "LM_CB"
    VLM_CB = "VLM_CB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Options of the engine's LLM graph (LLMCalculatorOptions); what is not given is left to the engine."""

    cache_size: int | None = key(
        None,
        minimum=0,
        maximum=65536,
        example="40",
        doc="KV cache of one instance in GB; 0 grows on demand and can exhaust the node's memory.",
    )
    max_num_seqs: int | None = key(
        None,
        minimum=1,
        maximum=9999,
        example="256",
        doc="Sequences that one instance works on at once; also sizes its REST workers.",
    )
    max_num_batched_tokens: int | None = key(
        None, minimum=1, maximum=1048576, example="256", doc="Tokens processed in one step of the engine."
    )
    dynamic_split_fuse: bool | None = key(
        None, example="true", doc="Whether prompts are split over several steps."
    )
    enable_prefix_caching: bool | None = key(
        None, example="true", doc="Whether equal beginnings of prompts are computed once."
    )
    pipeline_type: PipelineType | None = key(
        None,
        example='"LM_CB"',
        doc="Which of the engine's pipelines runs the model; it chooses itself by default.",
    )
    tool_parser: str | None = key(
        None,
        pattern=r"[a-z0-9_-]+",
        rule="must be the name of a parser such as hermes3",
        example='"hermes3"',
        doc="How calls of tools are found in the model's output.",
    )
    reasoning_parser: str | None = key(
        None,
        pattern=r"[a-z0-9_-]+",
        rule="must be the name of a parser such as qwen3",
        example='"qwen3"',
        doc="How reasoning is told from the answer in the model's output.",
    )
    kv_cache_precision: str | None = key(
        None,
        pattern=r"[a-z0-9]+",
        rule="must be an OpenVINO element type",
        example='"u8"',
        doc="Element type of the KV cache, an OpenVINO property.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ovms:
    """What is passed to the engine beside what the placement calls for."""

    flags: tuple[str, ...] = key(
        (),
        example='["--log_level", "DEBUG"]',
        doc="Further command-line arguments of ovms, one string each.",
    )
    environment: Mapping[str, str] = key(
        dict, example='{ HF_TOKEN = "..." }', doc="Further environment variables of the instances."
    )
    rest_workers: int | None = key(
        None,
        minimum=2,
        maximum=10000,
        example="257",
        doc="REST worker threads of one instance; by default graph.max_num_seqs + 1, as one is never free.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Where OpenVINO Model Server is installed."""

    binary: str = key(
        "/opt/ovms/bin/ovms",
        pattern=PROGRAM,
        rule=PROGRAM_RULE,
        example='"/opt/ovms/bin/ovms"',
        doc="The ovms program.",
    )
    library_path: str | None = key(
        None,
        pattern=ABSOLUTE,
        rule=ABSOLUTE_RULE,
        example='"/opt/ovms/lib"',
        doc="LD_LIBRARY_PATH of the instances; by default ../lib beside the directory of binary.",
    )
    python_path: str | None = key(
        None,
        pattern=ABSOLUTE,
        rule=ABSOLUTE_RULE,
        example='"/opt/ovms/lib/python"',
        doc="PYTHONPATH of the instances; by default the directory python below library_path.",
    )
    first_port: int = key(
        8003,
        minimum=1024,
        maximum=65000,
        example="8003",
        doc="Lowest port on 127.0.0.1 that is given to an instance.",
    )
