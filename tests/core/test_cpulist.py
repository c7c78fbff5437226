# SPDX-License-Identifier: Apache-2.0
"""The kernel's notations for sets of CPUs, both ways."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovms_scaler.core.cpulist import MAX_NUMBER, format_cpu_list, parse_cpu_list, parse_cpu_mask
from ovms_scaler.errors import InputError

numbers = st.frozensets(st.integers(0, MAX_NUMBER))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        pytest.param("", [], id="no CPU"),
        pytest.param("\n", [], id="no CPU as sysfs prints it"),
        pytest.param("0", [0], id="one CPU"),
        pytest.param("0-1\n", [0, 1], id="end of line"),
        pytest.param(" 0-1 , 5\t", [0, 1, 5], id="white space as an administrator types it"),
        pytest.param("0-31,192-223", [*range(32), *range(192, 224)], id="node 0 of two Xeon 6972P"),
        pytest.param("7,3,3,2-3", [2, 3, 7], id="unsorted and overlapping"),
        pytest.param("0-10:2/4", [0, 1, 4, 5, 8, 9], id="groups"),
        pytest.param("0-1023:2/256", [0, 1, 256, 257, 512, 513, 768, 769], id="the kernel's own example"),
        pytest.param("5-7:1/1", [5, 6, 7], id="groups of one"),
        pytest.param("0000000012", [12], id="leading zeros"),
        pytest.param("65535", [65535], id="the highest number"),
    ],
)
def test_parse_cpu_list(text: str, cpus: list[int]) -> None:
    assert parse_cpu_list(text) == frozenset(cpus)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        pytest.param("a", "'a' must be a number or a range like '0-31'", id="not a number"),
        pytest.param("-1", "'-1' must be a number or a range", id="negative"),
        pytest.param("1-", "'1-' must be a number or a range", id="open range"),
        pytest.param("0,,1", "'' must be a number or a range", id="empty item"),
        pytest.param("0-3,", "'' must be a number or a range", id="comma at the end"),
        pytest.param("0 1", "'0 1' must be a number or a range", id="space instead of comma"),
        pytest.param("3-1", "the range '3-1' must not end before it begins", id="backwards"),
        pytest.param("0-9:0/4", "'0-9:0/4' 0 of every 4 must be 1 or more", id="nothing of a group"),
        pytest.param("0-9:5/4", "'0-9:5/4' 5 of every 4 must be 1 or more, and not", id="too much"),
        pytest.param("4:1/2", "'4:1/2' must be a number or a range", id="groups of a single number"),
        pytest.param("65536", "no number may be above 65535, not '65536'", id="too high"),
        pytest.param("0-4000000000", "no number may be above 65535", id="range that would exhaust memory"),
        pytest.param("9" * 5000, "no number may be above 65535", id="more digits than int() takes"),
        pytest.param("0-3:1/99999999", "no number may be above 65535", id="huge group"),
        pytest.param("٣", "must be a number", id="digits of another script"),
        pytest.param("0\0", "must be a number", id="NUL"),
        pytest.param("0x1f", "must be a number", id="hexadecimal"),
    ],
)
def test_parse_cpu_list_names_text_and_rule(text: str, rule: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_cpu_list(text)
    assert caught.value.message.startswith(f"cannot read CPU list {text[:20]!r}"[:-1])
    assert rule in caught.value.message
    assert len(caught.value.message) < 400


def test_parse_cpu_list_refuses_endless_repetition_at_once() -> None:
    started = time.perf_counter()
    with pytest.raises(InputError, match="repeats too many numbers"):
        parse_cpu_list(",".join(["0-65535"] * 100_000))
    assert time.perf_counter() - started < 1.0


@given(numbers)
def test_lists_survive_the_round_trip(cpus: frozenset[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == cpus


@given(st.integers(0, 999), st.integers(0, 999), st.integers(1, 50), st.integers(1, 50))
def test_groups_are_counted_from_the_start_of_the_range(first: int, more: int, used: int, rest: int) -> None:
    group = used + rest
    expected = {cpu for cpu in range(first, first + more + 1) if (cpu - first) % group in range(used)}
    assert parse_cpu_list(f"{first}-{first + more}:{used}/{group}") == expected


@given(st.text(max_size=40))
def test_parse_cpu_list_takes_any_text_or_says_why_not(text: str) -> None:
    try:
        cpus = parse_cpu_list(text)
    except InputError:
        return
    assert parse_cpu_list(format_cpu_list(cpus)) == cpus


@pytest.mark.parametrize(
    ("cpus", "text"),
    [
        pytest.param([], "", id="none"),
        pytest.param([3], "3", id="one"),
        pytest.param([1, 0], "0-1", id="two neighbours are a range, as the kernel prints them"),
        pytest.param([4, 0, 2, 4], "0,2,4", id="unsorted with repetitions"),
        pytest.param([*range(32), *range(192, 224)], "0-31,192-223", id="node 0 of two Xeon 6972P"),
    ],
)
def test_format_cpu_list(cpus: list[int], text: str) -> None:
    assert format_cpu_list(cpus) == text


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        pytest.param("0", [], id="none"),
        pytest.param("3\n", [0, 1], id="one word"),
        pytest.param("ff,00000001", [0, *range(32, 40)], id="two words"),
        pytest.param("00000000,00000000,80000000", [31], id="leading words of nothing"),
    ],
)
def test_parse_cpu_mask(text: str, cpus: list[int]) -> None:
    assert parse_cpu_mask(text) == frozenset(cpus)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("0-3", id="a list"),
        pytest.param("f,f", id="short word"),
        pytest.param("1" + ",00000000" * 2048, id="bit 65536"),
    ],
)
def test_parse_cpu_mask_refuses(text: str) -> None:
    with pytest.raises(InputError, match="cannot read CPU mask"):
        parse_cpu_mask(text)


@given(numbers.filter(bool))
def test_masks_and_lists_agree(cpus: frozenset[int]) -> None:
    digits = f"{sum(1 << cpu for cpu in cpus):x}"
    digits = digits.zfill(-(-len(digits) // 8) * 8)
    words = [digits[start : start + 8] for start in range(0, len(digits), 8)]
    assert parse_cpu_mask(",".join(words)) == cpus
