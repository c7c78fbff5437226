# SPDX-License-Identifier: Apache-2.0
"""The command line of OVMS 2026.4: option table, parsing, and the settings that come of it.

Names, kinds and defaults are those of src/cli_parser.cpp and src/graph_export/*_cli_parser.cpp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """How the value of an option is read."""

    word = "word"
    uint32 = "uint32"
    switch = "switch"  # needs no value; `--name=false` is possible


class UsageError(Exception):
    """The command line breaks a rule: the text goes to stderr and the exit code is 64."""


_SERVER: Final = {
    "help": (Kind.switch, ""),
    "version": (Kind.switch, ""),
    "port": (Kind.uint32, "0"),
    "grpc_bind_address": (Kind.word, "0.0.0.0"),
    "rest_port": (Kind.uint32, "0"),
    "rest_bind_address": (Kind.word, "0.0.0.0"),
    "grpc_workers": (Kind.uint32, "1"),
    "grpc_max_threads": (Kind.uint32, ""),
    "grpc_memory_quota": (Kind.uint32, ""),
    "rest_workers": (Kind.uint32, ""),
    "log_level": (Kind.word, "INFO"),
    "log_path": (Kind.word, ""),
    "grpc_channel_arguments": (Kind.word, ""),
    "file_system_poll_wait_seconds": (Kind.uint32, "1"),
    "custom_node_resources_cleaner_interval_seconds": (Kind.uint32, "300"),
    "cache_dir": (Kind.word, ""),
    "metrics_enable": (Kind.switch, ""),
    "metrics_list": (Kind.word, ""),
    "cpu_extension": (Kind.word, ""),
    "allowed_local_media_path": (Kind.word, ""),
    "allowed_media_domains": (Kind.word, ""),
    "allow_credentials": (Kind.switch, ""),
    "allowed_origins": (Kind.word, "*"),
    "allowed_methods": (Kind.word, "*"),
    "allowed_headers": (Kind.word, "*"),
    "api_key_file": (Kind.word, ""),
    "verbose_response": (Kind.switch, ""),
    "config_path": (Kind.word, ""),
}
_PULL: Final = {
    "list_models": (Kind.switch, ""),
    "add_to_config": (Kind.word, ""),
    "remove_from_config": (Kind.word, ""),
    "pull": (Kind.switch, ""),
    "configure": (Kind.switch, ""),
    "source_model": (Kind.word, ""),
    "source_loras": (Kind.word, ""),
    "gguf_filename": (Kind.word, ""),
    "overwrite_models": (Kind.switch, ""),
    "model_repository_path": (Kind.word, ""),
    "weight-format": (Kind.word, "int8"),
    "extra_quantization_params": (Kind.word, ""),
}
_MODEL: Final = {
    "model_name": (Kind.word, ""),
    "model_path": (Kind.word, ""),
    "batch_size": (Kind.word, ""),
    "shape": (Kind.word, ""),
    "layout": (Kind.word, ""),
    "mean": (Kind.word, ""),
    "scale": (Kind.word, ""),
    "precision": (Kind.word, ""),
    "color_format": (Kind.word, ""),
    "model_version_policy": (Kind.word, ""),
    "nireq": (Kind.uint32, ""),
    "target_device": (Kind.word, ""),
    "plugin_config": (Kind.word, ""),
}
_GRAPH: Final = {
    "task": (Kind.word, ""),
    "max_num_seqs": (Kind.uint32, "256"),
    "pipeline_type": (Kind.word, ""),
    "enable_prefix_caching": (Kind.word, "true"),
    "max_num_batched_tokens": (Kind.uint32, ""),
    "cache_size": (Kind.uint32, "0"),
    "draft_source_model": (Kind.word, ""),
    "draft_eagle3_mode": (Kind.switch, ""),
    "dynamic_split_fuse": (Kind.word, "true"),
    "reasoning_parser": (Kind.word, ""),
    "tool_parser": (Kind.word, ""),
    "enable_tool_guided_generation": (Kind.word, "false"),
    "cache_interval_multiplier": (Kind.uint32, ""),
    "max_prompt_len": (Kind.uint32, ""),
    "kv_cache_precision": (Kind.word, ""),
    "model_distribution_policy": (Kind.word, ""),
}
OPTIONS: Final[Mapping[str, tuple[Kind, str]]] = {**_SERVER, **_PULL, **_MODEL, **_GRAPH}
GRAPH_OPTIONS: Final = frozenset(_GRAPH)
MODEL_OPTIONS: Final = frozenset(_MODEL)
PULL_OPTIONS: Final = frozenset(_PULL) - {
    "model_repository_path",
    "weight-format",
    "extra_quantization_params",
}
_UINT32_LIMIT: Final = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options that were given, as text, over the defaults."""

    given: Mapping[str, str]

    def has(self, name: str) -> bool:
        """Whether the option stands on the command line."""
        return name in self.given

    def text(self, name: str) -> str:
        """The value, else the default; "" when there is neither."""
        return self.given.get(name, OPTIONS[name][1])

    def count(self, name: str, default: int = 0) -> int:
        """The value as a number, else the table's default, else `default`."""
        value = self.text(name)
        return int(value) if value else default

    def switch(self, name: str) -> bool:
        return self.text(name) == "true"


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Reads `--name value`, `--name=value` and bare switches.

    Raises UsageError in OVMS's words for unknown options, stray words, missing or unreadable values.
    """
    given: dict[str, str] = {}
    unmatched: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "-h":
            given["help"] = "true"
        elif not word.startswith("--") or name not in OPTIONS:
            unmatched.append(word)
        else:
            if OPTIONS[name][0] is Kind.switch:
                value = value if equals else "true"
            elif not equals:
                value = next(words, "")
                if not value:
                    raise UsageError(f"error parsing options: Option '{name}' is missing an argument")
            given[name] = _checked(name, value)
    if unmatched:
        raise UsageError(f"error parsing options - unmatched arguments: {', '.join(unmatched)}, ")
    return Settings(given=given)


def _checked(name: str, value: str) -> str:
    match OPTIONS[name][0]:
        case Kind.uint32:
            is_valid = value.isascii() and value.isdigit() and int(value) < _UINT32_LIMIT
        case Kind.switch:
            value = value.lower()
            is_valid = value in {"true", "false"}
        case Kind.word:
            is_valid = True
    if not is_valid:
        raise UsageError(f"error parsing options: Argument '{value}' failed to parse")
    return value


def render_help() -> str:
    """Every option with its default, one a line."""
    lines = ["OpenVINO Model Server (stand-in for tests)", "Usage:", "  ovms [OPTION...]", ""]
    for name, (kind, default) in OPTIONS.items():
        argument = "" if kind is Kind.switch else f" {name.upper()}"
        lines.append(f"  --{name}{argument}" + (f" (default: {default})" if default else ""))
    return "\n".join(lines)
