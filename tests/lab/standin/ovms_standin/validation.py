# SPDX-License-Identifier: Apache-2.0
"""The rules that a command line must keep (OVMS src/config.cpp); a broken one ends the program with 64."""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lab.standin.ovms_standin.flags import GRAPH_OPTIONS, Settings, UsageError

_MAX_PORT: Final = 65535
_MAX_REST_WORKERS: Final = 10_000
_LOG_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")
_TASKS: Final = ("text_generation", "embeddings", "rerank", "image_generation", "text2speech", "speech2text")
_EXCLUSIVE_WITH_CONFIG: Final = (
    "batch_size", "shape", "nireq", "model_version_policy", "target_device", "plugin_config",
)  # fmt: skip
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_HOSTNAME: Final = re.compile(rf"(?=.{{1,255}}$)({_LABEL}\.)*{_LABEL}")
_DEVICE: Final = re.compile(r"CPU|GPU|NPU|GPU\.[0-9]+|HETERO.*|AUTO.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """What the rules look at outside the command line."""

    cpu_count: int  # of the whole host: OVMS ignores the affinity mask outside containers
    open_files: int  # soft RLIMIT_NOFILE


def rest_workers(settings: Settings, limits: HostLimits) -> int:
    """The number of REST workers in effect; a given 1 counts as 2 (config.cpp since 2026.2)."""
    default = max(2, min(limits.cpu_count, (limits.open_files - 15) // 7))
    workers = settings.count("rest_workers", default)
    return 2 if workers == 1 else workers


def is_literal_address(text: str) -> bool:
    """Whether this is an IP address rather than a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_llm_device(device: str) -> bool:
    """Whether OVMS takes this target device for a language model (config.cpp, `GPU.<digits>` included)."""
    return _DEVICE.fullmatch(device) is not None


def check_settings(settings: Settings, limits: HostLimits) -> None:
    """Raises UsageError with the first rule broken."""
    problems = (*_model_problems(settings), *_number_problems(settings, limits), *_other_problems(settings))
    if problems:
        raise UsageError(problems[0])


def _model_problems(settings: Settings) -> Iterator[str]:
    has_config = bool(settings.text("config_path"))
    name, path = settings.text("model_name"), settings.text("model_path")
    if has_config and (name or path):
        yield "Use either config_path or model_path with model_name"
    if not has_config and not (name and path):
        yield "Use config_path or model_path with model_name"
    if has_config and any(settings.has(option) for option in _EXCLUSIVE_WITH_CONFIG):
        yield "Model parameters in CLI are exclusive with the config file"
    if has_config and any(settings.has(option) for option in GRAPH_OPTIONS):
        yield "error parsing options - task parameters cannot be used with --config_path"
    if settings.has("task") and settings.text("task") not in _TASKS:
        yield f"error parsing options - --task parameter unsupported value: {settings.text('task')}"
    in_memory = any(settings.has(option) for option in GRAPH_OPTIONS)
    if in_memory and settings.has("target_device") and not is_llm_device(settings.text("target_device")):
        yield f"Unsupported target_device: {settings.text('target_device')}"


def _number_problems(settings: Settings, limits: HostLimits) -> Iterator[str]:
    port, rest_port = settings.count("port"), settings.count("rest_port")
    workers = rest_workers(settings, limits)
    if not 1 <= settings.count("grpc_workers") <= limits.cpu_count:
        yield f"grpc_workers count should be from 1 to CPU core count : {limits.cpu_count}"
    if not 2 <= workers <= _MAX_REST_WORKERS:
        yield f"rest_workers count should be from 2 to {_MAX_REST_WORKERS}"
    if settings.has("rest_workers") and not rest_port:
        yield "rest_workers is set but rest_port is not set. rest_port is required to start rest servers"
    if settings.has("rest_workers") and workers > (limits.open_files - 15) // 6:
        yield (
            f"rest_workers count should not exceed {(limits.open_files - 15) // 6} "
            f"with the limit of {limits.open_files} open files"
        )
    if port > _MAX_PORT:
        yield f"port number out of range from 0 to {_MAX_PORT}"
    if rest_port > _MAX_PORT:
        yield f"rest_port number out of range from 0 to {_MAX_PORT}"
    if not port and not rest_port:
        yield "port and rest_port cannot both be unset"
    if port == rest_port:
        yield "port and rest_port cannot have the same values"


def _other_problems(settings: Settings) -> Iterator[str]:
    if settings.switch("metrics_enable") and not settings.count("rest_port"):
        yield "rest_port setting is missing, metrics are enabled on rest port"
    if settings.text("metrics_list") and not settings.switch("metrics_enable"):
        yield "metrics_enable setting is missing, required when metrics_list is provided"
    for option in ("rest_bind_address", "grpc_bind_address"):
        if not all(_is_address(address) for address in settings.text(option).split(",")):
            yield f"{option} has invalid format: proper hostname or IP address expected."
    if settings.text("log_level") not in _LOG_LEVELS:
        yield "log_level should be one of: TRACE, DEBUG, INFO, WARNING, ERROR"


def _is_address(text: str) -> bool:
    if is_literal_address(text):
        return True
    # Digits and dots alone must be a full IPv4 address: "192.0.2" is not a host name for OVMS.
    return not re.fullmatch(r"[0-9.]+", text) and _HOSTNAME.fullmatch(text) is not None
