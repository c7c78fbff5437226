# SPDX-License-Identifier: Apache-2.0
"""Why a release does not run, in words that name the build to take instead."""

import pytest

from ovms_scaler.core.release_check import Finding, Ran, System, find_fault, find_missing

BOOKWORM = System(id="debian", version="12", name="Debian GNU/Linux 12 (bookworm)", glibc="2.36")
NOBLE = System(id="ubuntu", version="24.04", name="Ubuntu 24.04.1 LTS", glibc="2.39")

# What the dynamic linker of glibc prints, of the program itself and from ldd(1).
OLD_GLIBC = """\
/opt/ovms/2026.3.1/bin/ovms: /lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found \
(required by /opt/ovms/2026.3.1/bin/ovms)
/opt/ovms/2026.3.1/bin/ovms: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found \
(required by /opt/ovms/2026.3.1/bin/ovms)
"""
NO_PYTHON = (
    "/opt/ovms/bin/ovms: error while loading shared libraries: {}: cannot open shared object file: "
    "No such file or directory\n"
)
LDD = """\
/opt/ovms/lib/libovmspython.so:
\tlinux-vdso.so.1 (0x00007ffe2b1f2000)
\tlibpython3.10.so.1.0 => not found
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1c2d200000)
"""


def failed(output: str = "", **how: object) -> Ran:
    given: dict[str, object] = {"result": "exit-code", "status": 127} | how
    return Ran(
        output=output,
        result=str(given["result"]),
        status=int(str(given["status"])),
        signal=str(given.get("signal", "")),
    )


def fault(ran: Ran) -> Finding:
    found = find_fault(ran, BOOKWORM)
    assert found is not None
    return found


def test_what_runs_has_no_fault() -> None:
    assert find_fault(Ran(output="", result="success"), BOOKWORM) is None


def test_newer_glibc_names_both_versions_and_the_build_to_take() -> None:
    found = fault(failed(OLD_GLIBC))
    assert found.text == "it needs glibc 2.38, and Debian GNU/Linux 12 (bookworm) has 2.36"
    assert "ovms_ubuntu22_VERSION_python_off.tar.gz" in found.hint
    assert "system messages" in found.hint


def test_python_that_this_system_lacks_names_the_build_without_and_what_it_loses() -> None:
    found = fault(failed(NO_PYTHON.format("libpython3.12.so.1.0")))
    assert found.text == "it is built with Python 3.12, which Debian GNU/Linux 12 (bookworm) does not have"
    assert "python_off" in found.hint
    assert "tools cannot be used" in found.hint


def test_python_that_this_system_has_names_the_package() -> None:
    found = find_fault(failed(NO_PYTHON.format("libpython3.12.so.1.0")), NOBLE)
    assert found is not None
    assert found.text == "it is built with Python and needs libpython3.12.so.1.0, which is not there"
    assert found.hint == "apt install libpython3.12t64"


@pytest.mark.parametrize(
    ("library", "hint"),
    [("libxml2.so.2", "apt install libxml2"), ("libodd.so.7", "apt-file search libodd.so.7")],
)
def test_missing_library_names_the_package_if_it_is_known(library: str, hint: str) -> None:
    found = fault(failed(NO_PYTHON.format(library)))
    assert (found.text, found.hint) == (f"it needs {library}, which is not there", hint)


def test_library_that_is_loaded_later_is_found_missing() -> None:
    found = find_missing(LDD, BOOKWORM)
    assert found is not None
    assert "Python 3.10" in found.text
    assert find_missing(LDD.replace("not found", "/lib/libpython3.10.so.1.0 (0x7f)"), BOOKWORM) is None


@pytest.mark.parametrize(
    ("ran", "text"),
    [
        (failed(result="timeout", status=0), "did not end in time"),
        (failed(result="signal", status=0, signal="ILL"), "this CPU lacks an instruction"),
        (failed(status=132), "this CPU lacks an instruction"),
        (failed(status=203), "systemd cannot execute it"),
        (failed(result="signal", status=0, signal="SEGV"), "it ended with signal SEGV and said nothing"),
        (failed("first\nboom\n\n", status=1), "it ended with exit status 1: boom"),
        (failed(result="oom-kill", status=0), "it ended with oom-kill and said nothing"),
    ],
)
def test_other_ends_are_told(ran: Ran, text: str) -> None:
    assert text in fault(ran).text
    assert fault(ran).hint
