# SPDX-License-Identifier: Apache-2.0
"""States of servables, and the body of `GET /v1/config` (OVMS src/config_status_utils.cpp)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What a version of a servable is doing (modelversionstatus.cpp); there is no "failed"."""

    start = "START"
    loading = "LOADING"
    available = "AVAILABLE"
    unloading = "UNLOADING"
    end = "END"


class ErrorCode(StrEnum):
    """`unknown`: a classic model failed to load. `failed_precondition`: a graph did."""

    ok = "OK"
    unknown = "UNKNOWN"
    failed_precondition = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionStatus:
    """One line of the status: graphs always have version 1."""

    version: int
    state: State
    error: ErrorCode = ErrorCode.ok


def render_config_status(statuses: Mapping[str, Sequence[VersionStatus]]) -> str:
    """The body, to the byte: sorted by name, a space before and a newline after each name's colon."""
    if not statuses:
        return "{}"
    return "{\n" + ",\n".join(_render_servable(name, statuses[name]) for name in sorted(statuses)) + "\n}"


def _render_servable(name: str, versions: Sequence[VersionStatus]) -> str:
    head = f'{json.dumps(name, ensure_ascii=False)} : \n{{\n "model_version_status": ['
    if not versions:
        return head + "]\n}"
    return head + "\n" + ",\n".join(_render_version(version) for version in versions) + "\n ]\n}"


def _render_version(status: VersionStatus) -> str:
    return (
        "  {\n"
        f'   "version": "{status.version}",\n'
        f'   "state": "{status.state}",\n'
        '   "status": {\n'
        f'    "error_code": "{status.error}",\n'
        f'    "error_message": "{status.error}"\n'
        "   }\n"
        "  }"
    )
