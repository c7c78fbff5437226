# SPDX-License-Identifier: Apache-2.0
"""debian/tests run by Debian's own autopkgtest: installed, enabled and serving with nothing else of ours."""

import re
from collections.abc import Callable
from pathlib import Path

from lab import deb, image, paths
from lab.host import Host

# The host is the testbed, a container of its own to be thrown away, which autopkgtest-virt-null cannot know.
AUTOPKGTEST = """
exec 2>&1
: >/etc/apt/sources.list
cp -a /source /var/tmp/ovms-scaler
autopkgtest --ignore-restrictions=isolation-container --output-dir=/var/tmp/results \\
    /var/tmp/*.deb /var/tmp/ovms-scaler -- null
"""


def test_autopkgtest_passes_and_skips_nothing(
    boot: Callable[..., Host], release: str, debs: list[Path], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    deb.copy_sources(deb.read_source_names(), source)
    host = boot(image.build(release, image.Kind.BUILD), binds={"/source": source})
    for package in debs:
        host.write(f"/var/tmp/{package.name}", package.read_bytes())
    done = host.run("sh", "-uc", AUTOPKGTEST, check=False, timeout_sec=400)
    assert done.returncode == 0, done.stdout[-20000:]
    summary = dict(line.split()[:2] for line in host.read("/var/tmp/results/summary").splitlines())
    control = (paths.ROOT / "debian/tests/control").read_text()
    wanted = {"command1", *re.findall(r"^Tests: (.*)$", control, re.MULTILINE)}
    assert summary == dict.fromkeys(wanted, "PASS")
