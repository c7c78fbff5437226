# SPDX-License-Identifier: Apache-2.0
"""Whether an instance answers to another model name than its successor will."""

from ovms_scaler.core.facts import InstanceFacts
from ovms_scaler.core.readback import executed
from ovms_scaler.core.target import Wanted

_NAME = "--model_name"


def renamed(wanted: Wanted, own: InstanceFacts) -> str | None:
    """Why a roll would fail requests: one after the other would answer to another name, and 404 to the old.

    None when the name stays, which the process that runs was started with. One with a config.json has its
    names in there, and takes changes of that by itself.
    """
    if own.exec is None:
        return "its change waits until systemd has told what it runs"
    before, after = _model_name(executed(own.exec.argv)), _model_name(wanted.argv)
    if before == after:
        return None
    return f"its change needs an outage: it serves {_shown(before)} and is to serve {_shown(after)}"


def _model_name(argv: tuple[str, ...]) -> str | None:
    return argv[at + 1] if _NAME in argv[:-1] and (at := argv.index(_NAME)) else None


def _shown(name: str | None) -> str:
    return "the models of a config.json" if name is None else f"the model {name!r}"
