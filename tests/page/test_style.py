# SPDX-License-Identifier: Apache-2.0
"""Colours can be told from what is behind them, by WCAG 2.2 (1.4.3 and 1.4.11), in both schemes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovms_scaler import page
from ovms_scaler.page.marks import TONES

STYLE = (Path(page.__file__).parent / "templates/style.css").read_text()
LIGHT, DARK = (dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", part)) for part in re.findall(
    r":root \{(.*?)\}", STYLE, re.S
))  # fmt: skip
TEXT, GRAPHICS = 4.5, 3.0


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def pairs() -> Iterator[tuple[str, str, float]]:
    """What stands on what, and how much they have to differ."""
    for ground in ("ground", "surface"):
        for ink in ("text", "muted", "link", "good", "attention", "bad"):
            yield ink, ground, TEXT
        yield "focus", ground, GRAPHICS
        yield "idle", ground, GRAPHICS
        for tone in range(TONES):
            yield f"k{tone}", ground, GRAPHICS
    for level in ("good", "attention", "bad", "unknown"):
        for ink in ("text", level, "link"):
            yield ink, f"{level}-ground", TEXT
        yield "attention", f"{level}-ground", GRAPHICS
        yield "focus", f"{level}-ground", GRAPHICS
    yield "text", "code", TEXT
    for tone in range(TONES):
        yield "text", f"k{tone}-ground", TEXT


def test_both_schemes_have_the_same_colours() -> None:
    assert LIGHT.keys() == DARK.keys()


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_everything_can_be_read(scheme: dict[str, str]) -> None:
    found = {(ink, ground): contrast(scheme[ink], scheme[ground]) for ink, ground, _ in pairs()}
    assert not {
        f"{ink} on {ground}: {found[ink, ground]:.2f}" for ink, ground, least in pairs()
        if found[ink, ground] < least
    }  # fmt: skip


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_colours_are_named_once() -> None:
    """No colour stands outside the two lists that are looked at above."""
    rest = re.sub(r":root \{.*?\}", "", STYLE, flags=re.S)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b(?![^{]*\{)|\brgba?\(|\bhsla?\(", rest)
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", STYLE))
    assert used - {"own", "own-ground"} <= LIGHT.keys()


def test_nothing_moves_for_those_who_do_not_want_it() -> None:
    calm = re.sub(r"@media \(prefers-reduced-motion: no-preference\) \{.*?\n\}", "", STYLE, flags=re.S)
    assert not re.findall(r"transition|animation|scroll-behavior", calm)


def test_nothing_is_asked_of_anybody() -> None:
    assert not re.findall(r"url\(|@import|@font-face", STYLE)
