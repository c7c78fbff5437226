# SPDX-License-Identifier: Apache-2.0
"""What of the proxy is other than planned: its configuration, its routes, and what it runs with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ovms_scaler.core.drift import Drift
from ovms_scaler.core.facts import UnitFacts
from ovms_scaler.core.fronts import PROXY_DIRECTORY
from ovms_scaler.core.nginx import Member
from ovms_scaler.core.route import (
    CONFIGURATION,
    GENERATION,
    add_generation,
    parse_generation,
    render_route,
    route_path,
)
from ovms_scaler.core.target import Target, Wanted, render_proxy_files
from ovms_scaler.errors import InputError

_RELOAD = "systemctl reload ovms-scaler-proxy"
_LOOK = "systemctl status ovms-scaler-proxy; journalctl -u ovms-scaler-proxy"
_STATUS = "ovms-scalerctl status"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyView:
    """The proxy's files by path below its directory, and the generation that answers, None for none."""

    files: Mapping[str, str]
    running: str | None


def find_proxy_drifts(
    target: Target, view: ProxyView, units: Mapping[str, UnitFacts], in_rotation: frozenset[str]
) -> tuple[Drift, ...]:
    """Everything about the proxy; ``units`` by instance, ``in_rotation`` as the agent says."""
    if not target.fronts and not view.files:
        return ()
    return (*_files(target, view), *_routes(target, view, units, in_rotation), *_generation(view))


def _files(target: Target, view: ProxyView) -> Iterator[Drift]:
    planned = render_proxy_files(target, {}).files[CONFIGURATION] if target.fronts else None
    found = view.files.get(CONFIGURATION)
    if planned != found:
        text = "missing" if found is None else "another text"
        yield _drift(CONFIGURATION, "as in the plan", text, "ovms-scalerctl plan")


def _routes(
    target: Target, view: ProxyView, units: Mapping[str, UnitFacts], in_rotation: frozenset[str]
) -> Iterator[Drift]:
    planned: dict[str, str] = {}
    for name in in_rotation & target.wanted.keys():
        wanted, unit = target.wanted[name], units.get(name)
        text = _route(wanted, unit.invocation_id if unit is not None else "")
        if text is not None:
            planned[route_path(wanted.upstream, name)] = text
    routes = {path: text for path, text in view.files.items() if path.startswith("routes/")}
    for path in sorted({*planned, *routes}):
        if planned.get(path) != routes.get(path):
            before = planned.get(path, "no such route").rstrip().rpartition("\n")[2]
            after = routes.get(path, "missing").rstrip().rpartition("\n")[2]
            is_same_line = before == after
            yield _drift(
                path,
                "the process that runs" if is_same_line else before,
                "one that has ended" if is_same_line else after,
                _STATUS,
            )


def _generation(view: ProxyView) -> Iterator[Drift]:
    if not view.files:
        return
    actual = add_generation(view.files).generation
    written = parse_generation(view.files.get(GENERATION, ""))
    if written != actual:
        yield _drift(GENERATION, f"{actual}, as its files add up to", written or "none", _STATUS)
    if view.running is None:
        yield _drift("running generation", written or actual, "nobody answers", _LOOK)
    elif view.running != written:
        yield _drift("running generation", f"{written or actual}, as on disk", view.running, _RELOAD)


def _route(wanted: Wanted, invocation: str) -> str | None:
    instance = wanted.instance
    try:
        return render_route(
            Member(
                instance=instance.id,
                port=instance.port,
                weight=instance.weight,
                max_conns=wanted.max_conns,
                invocation=invocation,
            )
        )
    except InputError:
        return None  # it does not run


def _drift(what: str, planned: str, found: str, hint: str) -> Drift:
    shown = f"{PROXY_DIRECTORY}/{what}" if what.endswith(".conf") else what
    return Drift(subject="proxy", what=shown, planned=planned, found=found, hint=hint)
