# SPDX-License-Identifier: Apache-2.0
"""Somebody sets the clock: nothing is decided by the time of day, which is only shown to people."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovms_scaler

PACKAGE = Path(ovms_scaler.__file__).parent
# ctl shows things to people, and does nothing else.
DECIDING = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "ctl")

# Where it is taken down since when something holds, for people to see, or where the clock itself is judged
# and the dates in a certificate: function by module.
SHOWN = {
    "bench/fleet.py": {"run"},
    "bench/report.py": {"render_report"},
    "daemon/admin_pages.py": {"_overview"},
    "daemon/changes.py": {"note"},
    "daemon/events.py": {"note"},
    "daemon/measuring.py": {"_tell"},
    "daemon/orders.py": {"__init__", "drain", "pause"},
    "doctor/units.py": {"examine_certificate", "examine_storage"},
    "page/view.py": {"format_time"},
    "releases/releases.py": {"install"},
}
WALL = {
    "time": {
        "time",
        "time_ns",
        "localtime",
        "gmtime",
        "ctime",
        "strftime",
        "CLOCK_REALTIME",
        "clock_settime",
    },
    "datetime": {"datetime", "date"},
}


def read_uses(module: Path) -> Iterator[tuple[str, str]]:
    """Every use of the time of day, with the function that it is in."""
    tree = ast.parse(module.read_text())
    inside = {
        id(node): function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in WALL.get(node.value.id, ()):
                yield inside.get(id(node), ""), f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in WALL:
            yield from (("", f"from {node.module} import {alias.name}") for alias in node.names)


@pytest.mark.parametrize("module", DECIDING, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_time_of_day_is_only_taken_down_to_be_shown(module: Path) -> None:
    allowed = SHOWN.get(module.relative_to(PACKAGE).as_posix(), set())
    assert [use for function, use in read_uses(module) if function not in allowed] == []


def test_what_is_looked_for_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "import time\nfrom time import time as now\ndef age():\n    return time.time() - time.monotonic()\n"
    )
    assert list(read_uses(module)) == [("", "from time import time"), ("age", "time.time")]
