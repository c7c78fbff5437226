# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: ctl asks, daemon arranges, host touches, core decides."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovms_scaler

PACKAGE = Path(ovms_scaler.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# The parts of this package that each part may import beside itself.
ARROWS = {
    "errors": set[str](),
    "core": {"errors"},
    "bench": {"core", "errors"},
    "host": {"core", "errors"},
    "config": {"core", "errors", "host"},
    "offline": {"config", "core", "errors", "host"},
    "releases": {"config", "core", "errors", "host"},
    "verification": {"config", "core", "errors", "host", "offline"},
    "log": {"host"},
    "page": {"core", "errors"},
    "daemon": {"config", "core", "errors", "host", "log", "offline", "page"},
    "first": {"config", "core", "errors", "host", "offline"},
    "known": {"core", "errors", "host"},
    "versions": {"config", "core", "errors", "host"},
    "history": {"config", "core", "errors", "host", "offline"},
    "doctor": {"config", "core", "errors", "host", "offline", "releases"},
    "ctl": {
        "bench",
        "config",
        "core",
        "doctor",
        "errors",
        "first",
        "history",
        "known",
        "offline",
        "releases",
        "verification",
        "versions",
    },
    "__main__": {"daemon"},
    "__init__": set[str](),
}

# What of the standard library neither reaches outside the process nor knows the time.
PURE = {
    "bisect", "collections", "dataclasses", "difflib", "enum", "functools", "hashlib", "ipaddress",
    "itertools", "json", "math", "re", "types", "typing", "pathlib.PurePosixPath", "posixpath",
    "shlex.quote", "textwrap",
}  # fmt: skip

# What of bench decides nothing but by what it is given; chance comes from a seed there.
PURE_BENCH = {
    f"bench/{name}.py"
    for name in (
        "comparing", "dataset", "lengths", "load", "outcome", "own_load", "plots", "prompts", "report_plots",
        "rows", "run", "scaling", "schedule", "series", "statistics", "stream", "summary", "whole",
    )
}  # fmt: skip
PURE_TO_BENCH = PURE | {"html", "random", "statistics", "tomllib"}

# posixpath is text only in these of its functions.
PURE_PATHS = {"basename", "dirname", "isabs", "join", "normpath"}

# Each library from outside, and the only modules that may know it.
OWNERS = {
    "aiohttp": {
        "bench/client.py",
        "bench/front.py",
        "daemon/admin.py",
        "daemon/admin_pages.py",
        "daemon/control.py",
    },
    "click": {"ctl/*.py", "ctl/completion/tree.py", "ctl/verbs/*.py"},
    "h11": {"host/ovms.py"},
    "jinja2": {"bench/report.py", "page/rendering.py"},
    "prometheus_client": {"daemon/engine_metrics.py", "daemon/metrics.py"},
    "psutil": {"host/processes.py"},
    "pystemd": {"host/systemd_worker.py"},
    "pyudev": {"host/devices.py"},
    "rich": {"ctl/*.py", "ctl/verbs/*.py"},
    "structlog": {"daemon/*.py", "log.py"},
}

# Builtins that reach outside, or hide from this test what is imported.
BANNED_BUILTINS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def read_imports(module: Path) -> Iterator[str]:
    """Every name imported anywhere in the module, also in its functions, with its whole path."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(module)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def read_calls(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


EVERY_MODULE = pytest.mark.parametrize("module", MODULES, ids=name_of)


def test_every_part_has_its_arrows() -> None:
    assert {part_of(module) for module in MODULES} == set(ARROWS)


@EVERY_MODULE
def test_imports_follow_the_arrows(module: Path) -> None:
    allowed = ARROWS[part_of(module)] | {part_of(module), "__version__"}
    wrong = [
        name
        for name in read_imports(module)
        if name.partition(".")[0] == "ovms_scaler"
        # "from ovms_scaler import config" names the part itself.
        and name.split(".")[1] not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("module", [one for one in MODULES if name_of(one) in PURE_BENCH], ids=name_of)
def test_figures_are_pure(module: Path) -> None:
    names = [name for name in read_imports(module) if not name.startswith("ovms_scaler.")]
    assert not [name for name in names if name not in PURE and name.partition(".")[0] not in PURE_TO_BENCH]
    assert not BANNED_BUILTINS & set(read_calls(module))
    ours = {name.split(".")[2] for name in read_imports(module) if name.startswith("ovms_scaler.bench.")}
    assert {f"bench/{name}.py" for name in ours} <= PURE_BENCH


def test_what_is_said_to_be_pure_is_there() -> None:
    assert {name_of(module) for module in MODULES} >= PURE_BENCH


@pytest.mark.parametrize(
    "module", [module for module in MODULES if part_of(module) in ("core", "errors")], ids=name_of
)
def test_core_is_pure(module: Path) -> None:
    names = [name for name in read_imports(module) if not name.startswith("ovms_scaler.")]
    assert not [name for name in names if name not in PURE and name.partition(".")[0] not in PURE]
    assert not BANNED_BUILTINS & set(read_calls(module))
    attributes = (
        node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Attribute)
    )
    paths = {
        node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "posixpath"
    }
    assert paths <= PURE_PATHS


@EVERY_MODULE
def test_each_library_has_one_owner(module: Path) -> None:
    path = Path(name_of(module))
    wrong = [
        name
        for name in read_imports(module)
        if (owners := OWNERS.get(name.partition(".")[0])) is not None
        and not any(path.match(owner) for owner in owners)
    ]
    assert not wrong


@EVERY_MODULE
def test_nothing_is_imported_behind_this_test(module: Path) -> None:
    assert not [name for name in read_imports(module) if name.partition(".")[0] in ("importlib", "runpy")]
    assert "__import__" not in read_calls(module)


def test_all_libraries_from_outside_have_an_owner() -> None:
    ours = {"ovms_scaler"} | set(sys.stdlib_module_names)
    outside = {name.partition(".")[0] for module in MODULES for name in read_imports(module)}
    assert outside - ours <= set(OWNERS)
