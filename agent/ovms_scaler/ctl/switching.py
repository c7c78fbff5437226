# SPDX-License-Identifier: Apache-2.0
"""Has instances go over to another release of OVMS, one after the other, and says what became of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovms_scaler.config import Config
from ovms_scaler.core.news import table
from ovms_scaler.ctl import client, output
from ovms_scaler.ctl.busy import busy
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.waiting import follow, progress_document
from ovms_scaler.errors import RefusedError, ScalerError, UnreachableError
from ovms_scaler.releases.releases import Releases, is_taken

BACK = "ovms-scalerctl engine rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for beside the release itself."""

    socket: Path
    allow_outage: bool
    wait: bool
    as_json: bool


def switch(releases: Releases, name: str, config: Config, wish: Wish) -> tuple[Exit, dict[str, Any]]:
    """Make a release the current one and have the agent roll it out.

    Raises ScalerError; then instances are planned with what they were planned with before.
    """
    before = releases.current()
    planned = releases.planned()
    if before == name and all(release == name for release in planned.values()):
        _say(wish, f"{name} is the current release" + (", and every instance runs it" if planned else ""))
        return Exit.good, _document(before=None, is_switched=False)
    with busy(f"switching to {name}"):
        is_there = _check_agent(config, wish, has_instances=bool(planned))
        previous = releases.previous()
        before = releases.use(name)
    if not is_there:
        _say(wish, f"{name} is the current release; the agent takes it when it starts")
        return Exit.good, _document(before=before, is_switched=True)
    try:
        with busy("waiting for the agent to judge the configuration"):
            answer = client.reload(wish.socket, allow_outage=wish.allow_outage)
    except UnreachableError:
        raise  # it may have been taken
    except ScalerError:
        if before is not None:
            releases.restore(before, previous)
        raise
    way = f"from {before} to {name}" if before not in (None, name) else f"to {name}"
    if not wish.wait:
        _say(wish, f"instances go {way}, one after the other\n  next: ovms-scalerctl status --watch")
        return Exit.good, _document(before=before, is_switched=True)
    _say(wish, f"instances go {way}, one after the other")
    progress = follow("reload", answer, lambda: client.read_status(wish.socket), as_json=wish.as_json)
    document = _document(before=before, is_switched=True) | {"rolling": progress_document(progress)}
    if progress.trouble:
        if not wish.as_json:
            output.complain(f"{progress.trouble}\n  hint: to go back: {BACK}")
        return Exit.bad_news, document
    releases.settle()
    _say(wish, f"every instance runs {name}" + (f"; to go back: {BACK}" if releases.previous() else ""))
    return Exit.good, document


def _document(*, before: str | None, is_switched: bool) -> dict[str, Any]:
    return {"switched": is_switched, "before": before, "rolling": None}


def _check_agent(config: Config, wish: Wish, *, has_instances: bool) -> bool:
    """Whether the agent is there. Raises ScalerError where a switch would do something else as well."""
    try:
        status = client.read_status(wish.socket)
    except UnreachableError as error:
        if not has_instances:
            return False
        raise UnreachableError(f"cannot switch: {error.message}", hint=error.hint) from error
    if table(status, "orders").get("paused_since") is not None:
        raise RefusedError("cannot switch: the agent is paused", hint="ovms-scalerctl resume")
    if not is_taken(config):
        raise RefusedError(
            f"cannot switch: {config.file} has changed since the agent took it, and would be taken along",
            hint="ovms-scalerctl plan; then: ovms-scalerctl reload --wait",
        )
    return True


def _say(wish: Wish, text: str) -> None:
    if not wish.as_json:
        output.show(text)
