# SPDX-License-Identifier: Apache-2.0
"""Runs a fuzzer for a number of inputs or for a time; the first one that does harm ends it, made small."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

# Inputs from one seed: some thousands, after which new ones become rare.
ROUND = 2000


@dataclass(frozen=True, kw_only=True)
class Target:
    """``open`` gives the check of one input, which raises anything at all when the input did harm."""

    name: str
    about: str
    inputs: st.SearchStrategy[Any]
    open: Callable[[], contextlib.AbstractContextManager[Callable[[Any], None]]]


def run(target: Target, *, inputs: int, start: int) -> int:
    """How many inputs were tried; raises what the first one that does harm led to, with the input in a note.

    ``start`` makes a run again what it was.
    """
    tried = 0
    with target.open() as check:

        @seed(start)
        @settings(
            max_examples=inputs,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
            print_blob=False,
        )
        @given(target.inputs)
        def try_one(value: object) -> None:
            nonlocal tried
            tried += 1
            check(value)

        try_one()
    return tried


def run_for(target: Target, seconds: float) -> Iterator[tuple[int, int]]:
    """Rounds until the time has passed: the seed of each, and how many inputs it tried."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        start = secrets.randbits(32)
        try:
            yield start, run(target, inputs=ROUND, start=start)
        except Exception as error:
            error.add_note(f"again: python -m fuzz --seed {start} {target.name}")
            raise


@st.composite
def damaged(draw: st.DrawFn, whole: tuple[bytes, ...]) -> bytes:
    """One of ``whole`` with a few pieces cut out, put in, doubled or exchanged."""
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from((1, 2, 4, 16, 256)))
        kind = draw(st.sampled_from(("cut", "put", "double", "bits", "splice")))
        if kind == "cut":
            del data[at : at + length]
        elif kind == "put":
            data[at:at] = draw(ODD)
        elif kind == "double":
            data[at:at] = data[at : at + length] * draw(st.sampled_from((1, 2, 50)))
        elif kind == "bits" and at < len(data):
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "splice":
            other = draw(st.sampled_from(whole))
            begin = draw(st.integers(0, len(other)))
            data[at : at + length] = other[begin : begin + length]
    return bytes(data[: 1 << 17])


# What parsers trip over.
ODD = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        (
            b"\x00", b"\xff", b"\n", b"\r\n", b"\r", b"\t", b" ", b'"', b"'", b"\\", b"{", b"}", b"[",
            b"]", b"%",
            b"$", b",", b":", b";", b"#", b"=", b"-", b"-1", b"0", b"00", b"0x0", b"1e999", b"9" * 30,
            b"NaN",
            b"-9223372036854775809", b"18446744073709551616", b"4294967295", b"65536", b"true", b"null",
            b"\\u0000",
            b"\\ud800", b"\xef\xbb\xbf", b"\xc0\xae", b"\xe2\x80\xa8", b"[" * 1000, b"{" * 1000, b"../",
            b"%n", b"${X}",
            "\N{ARABIC-INDIC DIGIT THREE}".encode(), "\N{SUPERSCRIPT TWO}".encode(),
        )
    ),
)  # fmt: skip
