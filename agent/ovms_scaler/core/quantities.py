# SPDX-License-Identifier: Apache-2.0
"""Durations, sizes and rates as people read them."""

GIB = 1024**3
MIB = 1024**2


def format_duration(seconds: float) -> str:
    """In two units at most: "12s", "5m03s", "2h05m", "3d04h"."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"


def format_latency(seconds: float) -> str:
    """With two digits that count: "8 ms", "180 ms", "1.4 s", "75 s"."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:,.0f} s"


def format_bytes(size: float) -> str:
    """In GiB, or in MiB below one: "512 MiB", "11.9 GiB", "256 GiB"."""
    if size < GIB:
        return f"{size / MIB:.0f} MiB"
    return f"{size / GIB:.1f} GiB" if size / GIB < 99.95 else f"{size / GIB:,.0f} GiB"


def format_number(value: float) -> str:
    """One digit after the point where it says something: "0", "0.3", "48.2", "1,204"."""
    if value == 0 or value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.05 else "<0.1"


def format_share(share: float) -> str:
    """A part of one in percent: "0 %", "63 %"."""
    return f"{share * 100:.0f} %"


def format_used(used: float, size: float) -> str:
    """How much of it: "181 of 256 GiB"; each with its unit where they are not the same."""
    some, all_of_it = format_bytes(used), format_bytes(size)
    number, _, unit = some.partition(" ")
    return f"{number if all_of_it.endswith(unit) or not used else some} of {all_of_it}"
