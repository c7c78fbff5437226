# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the integration tier: everything in this directory needs root and boots disposable hosts."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import deb, image, installed, paths
from lab.commands import LabError
from lab.host import Host
from lab.image import Image


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this directory, before pytest selects by mark."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.system)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the hosts have to say to the report of a test that failed."""
    report = yield
    if report.failed and item.get_closest_marker("system"):
        for host in Host.live:
            try:
                text = host.diagnostics()
            except (LabError, OSError) as error:
                text = f"{error}\n{host.console()}"
            report.sections.append((f"host {host.name!r}", text))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how long hosts took to boot."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    seconds: dict[str, list[float]] = {}
    for report in reports:
        if getattr(report, "when", "") == "teardown":
            for release, value in report.user_properties:
                seconds.setdefault(release, []).append(float(value))
    for release, values in sorted(seconds.items()):
        text = f"{len(values)} boots of {release}: {min(values):.2f} to {max(values):.2f} s"
        terminalreporter.write_line(text)


@pytest.fixture(params=paths.RELEASES, scope="session")
def release(request: pytest.FixtureRequest) -> str:
    """A test that uses it, or an image, runs once on every supported release of Debian."""
    return str(request.param)


@pytest.fixture(scope="session")
def host_image(release: str) -> Image:
    """A host with all dependencies of the package, but without the package."""
    return image.build(release, image.Kind.HOST)


@pytest.fixture(scope="session")
def installed_image(release: str) -> Image:
    """The same with the package installed, as it is after `apt-get install` and an orderly shut-down."""
    return installed.build(release)


@pytest.fixture(scope="session")
def debs(release: str) -> list[Path]:
    """The packages, to install."""
    return deb.build(release)


@pytest.fixture
def boot(record_property: Callable[[str, object], None]) -> Iterator[Callable[..., Host]]:
    """Boots hosts as Host.boot() does, with the same arguments; they end with the test."""
    with contextlib.ExitStack() as hosts:

        def boot_host(booted: Image, **options: Any) -> Host:
            host = hosts.enter_context(Host.boot(booted, **options))
            record_property(booted.release, host.boot_sec)
            return host

        yield boot_host


@pytest.fixture
def host(boot: Callable[..., Host], host_image: Image) -> Host:
    """A freshly booted host without the package."""
    return boot(host_image)
