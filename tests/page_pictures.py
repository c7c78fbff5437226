# SPDX-License-Identifier: Apache-2.0
"""Pictures of the status page, of the machines of ``page_lab``.

PYTHONPATH=agent:tests .venv/bin/python -m page_pictures --readme makes the one in README.md.
"""

import argparse
import asyncio
import base64
import itertools
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable
from pathlib import Path

import page_lab
from browser import Browser, open_browser
from page_server import serve

README_PICTURE = Path(__file__).parents[1] / "docs/status-page.png"
WIDTHS = (360, 1280)
SCHEMES = ("light", "dark")

# The pixels as indices of the 256 colours that are there most; what is left are edges of letters.
TO_PALETTE = """(async (source) => {
    const image = await createImageBitmap(await (await fetch(source)).blob());
    const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
    canvas.drawImage(image, 0, 0);
    const pixels = new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer);
    const counts = new Map();
    for (const one of pixels) counts.set(one, (counts.get(one) ?? 0) + 1);
    const palette = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 256).map(([colour]) => colour);
    const channels = (one) => [one & 255, one >> 8 & 255, one >> 16 & 255];
    const listed = palette.map(channels);
    const nearest = new Map();
    for (const colour of counts.keys()) {
        const own = channels(colour);
        const distances = listed.map((other) => own.reduce((sum, x, n) => sum + (x - other[n]) ** 2, 0));
        nearest.set(colour, distances.indexOf(Math.min(...distances)));
    }
    const indices = new Uint8Array(pixels.length).map((_, at) => nearest.get(pixels[at]));
    const text = await new Promise((resolve) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result.split(",")[1]);
        reader.readAsDataURL(new Blob([indices]));
    });
    return [image.width, image.height, listed.flat(), text];
})"""


async def shrink(browser: Browser, picture: bytes) -> bytes:
    """The PNG with 256 colours: a third of its size, and nobody sees it."""
    page = await browser.open("about:blank")
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    width, height, palette, indices = await page.evaluate(f"{TO_PALETTE}('{source}')")
    pixels = base64.b64decode(indices)
    # Each row begins with its filter: none.
    rows = b"".join(b"\0" + pixels[start : start + width] for start in range(0, len(pixels), width))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", bytes(palette)),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


async def take(wanted: Iterable[tuple[str, int, str, Path]]) -> None:
    """Machine, width, colour scheme, and the file."""
    with tempfile.TemporaryDirectory() as profile:
        async with open_browser(Path(profile)) as browser:
            for name, width, scheme, file in wanted:
                async with serve(page_lab.NAMED[name]) as server:
                    page = await browser.open(server.url, width=width, scheme=scheme)
                    file.write_bytes(await shrink(browser, await page.take_picture()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--readme", action="store_true", help=f"only {README_PICTURE.name}")
    parser.add_argument("--directory", type=Path, default=Path("pictures"), help="where they go (pictures)")
    parser.add_argument("--machine", action="append", choices=sorted(page_lab.NAMED))
    parser.add_argument("--width", action="append", type=int)
    parser.add_argument("--scheme", action="append", choices=SCHEMES)
    given = parser.parse_args()
    os.environ["TZ"] = "UTC"
    time.tzset()
    if given.readme:
        wanted = [("six_with_a_fault", 1280, "light", README_PICTURE)]
    else:
        several = itertools.product(
            given.machine or page_lab.NAMED, given.width or WIDTHS, given.scheme or SCHEMES
        )
        wanted = [(*one, given.directory / "{}-{}-{}.png".format(*one)) for one in several]
    for directory in {one[-1].parent for one in wanted}:
        directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(take(wanted))


if __name__ == "__main__":
    main()
