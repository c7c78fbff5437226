# SPDX-License-Identifier: Apache-2.0
"""Which release is which, and what instances are started from."""

import pytest

from ovms_scaler.core.release import (
    Version,
    check_name,
    find_release,
    name_free,
    parse_version,
    pin,
    root_of,
    sort_newest_first,
)
from ovms_scaler.core.spec_engine import Engine
from ovms_scaler.errors import InputError

# As in an issue of OVMS, and as its main.cpp prints them.
PYTHON_ON = """\
OpenVINO Model Server 2026.3.1.d7bf9f1d3
OpenVINO backend 2026.3.0-21903-52ddc073857
OpenVINO GenAI backend 2026.3.0.0-2836-1a2b3c4d5e6
Bazel build flags: --config=mp_on_py_on
"""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (PYTHON_ON, Version(number="2026.3.1", build="d7bf9f1d3", python=True)),
        (
            PYTHON_ON.replace("py_on", "py_off"),
            Version(number="2026.3.1", build="d7bf9f1d3", python=False),
        ),
        ("OpenVINO Model Server 2025.4\n", Version(number="2025.4", build="", python=None)),
        (
            "OpenVINO Model Server 2026.4.0 (stand-in for tests)\nBazel build flags: none\n",
            Version(number="2026.4.0", build="", python=None),
        ),
        (
            "a line before\nOpenVINO Model Server 2026.10.12.0123456789\n",
            Version(number="2026.10.12", build="0123456789", python=None),
        ),
    ],
)
def test_version_is_read(text: str, version: Version) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "ovms 1.0", "OpenVINO Model Server", "OpenVINO Model Server next"])
def test_what_is_no_version_is_refused_with_what_was_said(text: str) -> None:
    with pytest.raises(InputError, match="cannot tell the version") as refused:
        parse_version(text)
    assert repr(text) in refused.value.message


@pytest.mark.parametrize("name", ["", ".", "..", "current", "a/b", "2026/../..", ".new-1", "2026\n", "-1"])
def test_name_that_could_be_another_file_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        check_name(name)


def test_names_are_numbers() -> None:
    assert sort_newest_first(["2026.9.1", "2026.10.0", "2025.4", "2026.10.0-2"]) == (
        "2026.10.0-2",
        "2026.10.0",
        "2026.9.1",
        "2025.4",
    )


def test_further_build_gets_a_name_of_its_own() -> None:
    assert name_free("2026.3.1", []) == "2026.3.1"
    assert name_free("2026.3.1", ["2026.3.1", "2026.3.1-2"]) == "2026.3.1-3"


def test_engine_is_pinned_with_all_its_paths() -> None:
    engine = Engine(library_path="/opt/ovms/lib:/usr/local/lib", python_path="/opt/ovms/lib/python")
    pinned = pin(engine, "2026.3.1")
    assert pinned.binary == "/opt/ovms/2026.3.1/bin/ovms"
    assert pinned.library_path == "/opt/ovms/2026.3.1/lib:/usr/local/lib"
    assert pinned.python_path == "/opt/ovms/2026.3.1/lib/python"
    assert pin(engine, "") == engine
    assert pin(Engine(), "2026.3.1").library_path is None


@pytest.mark.parametrize("binary", ["/usr/bin/ovms", "/usr/local/bin/ovms"])
def test_program_of_a_distribution_has_a_root_as_well(binary: str) -> None:
    assert str(root_of(Engine(binary=binary))) == binary.removesuffix("/bin/ovms")


@pytest.mark.parametrize("binary", ["/bin/ovms", "/opt/ovms/ovms", "/opt/ovms/bin/ovms-wrapper"])
def test_program_that_is_laid_out_otherwise_has_no_releases(binary: str) -> None:
    with pytest.raises(InputError, match="DIRECTORY/bin/ovms"):
        root_of(Engine(binary=binary))


@pytest.mark.parametrize(
    ("line", "release"),
    [
        ("ExecStart=/opt/ovms/2026.3.1/bin/ovms \\", "2026.3.1"),
        ("ExecStart=/opt/ovms/bin/ovms \\", ""),
        ("ExecStart=/opt/ovms-old/bin/ovms \\", None),
        ("ExecStart=/usr/bin/ovms \\", None),
        ("Environment=X=/opt/ovms/2026.3.1/bin/ovms", None),
    ],
)
def test_drop_in_tells_the_release(line: str, release: str | None) -> None:
    assert find_release(f"[Service]\nExecStart=\n{line}\n    --rest_port 8003\n", "/opt/ovms") == release
