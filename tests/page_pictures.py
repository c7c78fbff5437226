# SPDX-License-Identifier: Apache-2.0
"""Pictures of the status page: ``PYTHONPATH=agent:tests python3 -m page_pictures --help``."""

import argparse
import asyncio
import itertools
import os
import tempfile
import time
from pathlib import Path

import page_lab
from browser import open_browser
from page_server import serve

README_PICTURE = Path(__file__).parents[1] / "docs/status-page.png"
WIDTHS = (360, 1280)


async def take(directory: Path, names: list[str], widths: list[int], schemes: list[str]) -> None:
    """One file for each machine, width and colour scheme."""
    with tempfile.TemporaryDirectory() as profile:
        async with open_browser(Path(profile)) as browser:
            for name, width, scheme in itertools.product(names, widths, schemes):
                async with serve(page_lab.NAMED[name]) as server:
                    page = await browser.open(server.url, width=width, scheme=scheme)
                    (directory / f"{name}-{width}-{scheme}.png").write_bytes(await page.take_picture())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the pictures go")
    parser.add_argument("--machine", action="append", choices=sorted(page_lab.NAMED), default=[])
    parser.add_argument("--width", action="append", type=int, default=[])
    parser.add_argument("--scheme", action="append", choices=("light", "dark"), default=[])
    given = parser.parse_args()
    os.environ["TZ"] = "UTC"
    time.tzset()
    given.directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(
        take(
            given.directory,
            given.machine or list(page_lab.NAMED),
            given.width or list(WIDTHS),
            given.scheme or ["light", "dark"],
        )
    )


if __name__ == "__main__":
    main()
