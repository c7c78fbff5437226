# SPDX-License-Identifier: Apache-2.0
"""Waits for one thing, and no longer than another allows."""

import asyncio


async def wait(
    event: asyncio.Event | None, stop: asyncio.Event | None = None, at_most_sec: float | None = None
) -> None:
    """Until ``event`` is set, or ``stop`` is, or the time is over."""
    tasks = [asyncio.create_task(one.wait()) for one in (event, stop) if one is not None]
    if not tasks:
        await asyncio.sleep(at_most_sec or 0.0)
        return
    try:
        await asyncio.wait(tasks, timeout=at_most_sec, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
