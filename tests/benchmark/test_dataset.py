# SPDX-License-Identifier: Apache-2.0
"""Conversations of ShareGPT, and files that are not."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ovms_scaler.bench.dataset import Sample, draw_sample
from ovms_scaler.errors import InputError


def entry(prompt: str, answer: str = "An answer that is long enough.") -> dict[str, Any]:
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
    return {"id": "x", "conversations": turns}


def blocks(text: str, size: int) -> Iterator[str]:
    return (text[index : index + size] for index in range(0, len(text), size))


def sample(text: str, count: int = 10, seed: int = 0, size: int = 1000) -> Sample:
    return draw_sample(blocks(text, size), count, seed, name="data.json")


MANY = json.dumps([entry(f"Question number {number}, what is it?") for number in range(500)], indent=1)


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_the_pieces_in_which_a_file_is_read_do_not_matter(size: int) -> None:
    assert sample(MANY, size=size) == sample(MANY)


def test_the_seed_chooses_and_each_is_taken_once() -> None:
    first = sample(MANY, count=100)
    prompts = [one.prompt for one in first.conversations]
    assert len(set(prompts)) == 100
    assert first.usable == first.total == 500
    assert prompts != [one.prompt for one in sample(MANY, count=100, seed=1).conversations]
    assert sorted(prompts) != prompts


def test_all_are_taken_alike() -> None:
    counts = [0] * 500
    for seed in range(40):
        for one in sample(MANY, count=50, seed=seed).conversations:
            counts[int(one.prompt.split()[2].strip(","))] += 1
    assert sum(counts[:250]) == pytest.approx(1000, rel=0.15)


def test_too_few_are_asked_again() -> None:
    found = sample(json.dumps([entry("What is the first?"), entry("What is the second?")]), count=5)
    assert found.usable == 2
    assert len(found.conversations) == 5
    assert len({one.prompt for one in found.conversations}) == 2


def test_entries_of_no_use_are_counted_by_why() -> None:
    entries = [
        entry("What is a good question?", "x" * 400),
        entry("Hm"),
        entry("x" * 5000),
        entry("x" * 4000, "x" * 5000),
        {"conversations": [{"from": "human", "value": "What is it?"}]},
        {"conversations": [{"from": "human"}, {"from": "gpt", "value": "It is nothing."}]},
        {"text": "no conversation"},
        17,
    ]
    found = sample(json.dumps(entries))
    assert (found.usable, found.total) == (1, 8)
    assert found.conversations[0].output_len == 100
    assert found.refused == {
        "too short": 1,
        "too long": 2,
        "fewer than two turns": 1,
        "a turn without text": 1,
        "no conversations": 2,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.json is empty"),
        (" \n", "data.json is empty"),
        ("[]", "data.json has no entry"),
        ('{"a": 1}', "data.json is not a JSON array: it begins with '{'"),
        ("hello", "data.json is not a JSON array"),
        ('[\n{"a": 1},\n{"a" 2}]', "data.json is not JSON: line 3, entry 2: Expecting ':' delimiter"),
        ('[{"a": 1}', "data.json is not JSON: line 1, entry 1: a comma or ] must follow"),
        ('[{"a": 1}, {"b": "', "data.json is not JSON: line 1, entry 2: the file ends in the middle"),
        ('[{"a": 1}] more', "data.json is not JSON: line 1, entry 1: nothing may follow the array"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"a": 1},\n]', "data.json is not JSON: line 2, entry 1: a comma is before the ]"),
        ('[{"a": 1},, {"b": 2}]', "data.json is not JSON: line 1, entry 2: Expecting value"),
        ('[{"a": 1},\n{"b": [2,\n}]}]', "data.json is not JSON: line 3, entry 2: "),
        ('[{"a": 1},', "data.json is not JSON: line 1, entry 2: the file ends in the middle"),
        (
            f'[{{"a": 1{"0" * 10_000}}}]',
            "data.json is not JSON: line 1, entry 1: a number has too many digits",
        ),
        (f"[1{'0' * 10_000}]", "data.json is not JSON: line 1, entry 1: a number has too many digits"),
        ('[{"text": 1}, 2]', "data.json has no entry that can be used: of 2 2 no conversations"),
    ],
)
def test_what_is_no_dataset_is_told(text: str, message: str) -> None:
    for size in (7, 100_000) if len(text) < 20_000 else (100_000,):
        with pytest.raises(InputError) as refused:
            sample(text, size=size)
        assert message in refused.value.message
        assert "ends in the middle" in message or "ends in the middle" not in refused.value.message
        assert refused.value.hint
