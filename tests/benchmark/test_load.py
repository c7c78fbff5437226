# SPDX-License-Identifier: Apache-2.0
"""What is sent when: lengths, texts, times."""

import math
import random
from itertools import pairwise
from statistics import correlation, fmean, stdev

import pytest
from bench_lab import load

from ovms_scaler.bench.dataset import Conversation
from ovms_scaler.bench.lengths import parse_lengths
from ovms_scaler.bench.load import make_asks
from ovms_scaler.bench.prompts import WORDS, describe_newness
from ovms_scaler.bench.schedule import arrivals
from ovms_scaler.errors import InputError

INF = float("inf")


def test_arrivals_are_a_poisson_process() -> None:
    due = arrivals(20_000, 50.0, seed=1)
    gaps = [after - before for before, after in pairwise(due)]
    assert due[0] == 0.0
    assert fmean(gaps) == pytest.approx(1 / 50, rel=0.03)
    # Of an exponential distribution the deviation is the mean.
    assert stdev(gaps) == pytest.approx(fmean(gaps), rel=0.03)
    assert due == arrivals(20_000, 50.0, seed=1) != arrivals(20_000, 50.0, seed=2)


def test_an_infinite_rate_is_all_at_once() -> None:
    assert arrivals(3, INF, seed=0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "mean", "low", "high"),
    [
        ("256", 256, 256, 256),
        ("14-40", 27, 14, 40),
        ("~220", 220, 4, 1760),
        ("~183", 183, 4, 1464),
        ("~5", 5, 2, 40),
        ("~3", 3, 1, 24),
        ("~1", 1, 1, 8),
        ("~100000", 100_000, 4, 131_072),
        ("~131072", 131_072, 4, 131_072),
    ],
)
def test_lengths_are_distributed_as_told(text: str, mean: float, low: int, high: int) -> None:
    lengths = parse_lengths(text)
    # What people run without another thought is as large as it is told, whatever the seed.
    for seed in range(20):
        drawn = lengths.draw(200, random.Random(seed))
        assert fmean(drawn) == pytest.approx(mean, rel=0.02)
        assert low <= min(drawn) <= max(drawn) <= high
    assert str(lengths) == text


def test_a_long_tail_is_log_normal() -> None:
    lengths = parse_lengths("~220")
    drawn = sorted(lengths.draw(20_000, random.Random(0)))
    # Of a log-normal distribution with a sigma of 1 the median is exp(-1/2) of the mean, and 84 % are
    # up to e times the median.
    assert drawn[10_000] == pytest.approx(220 * math.exp(-0.5), rel=0.05)
    assert drawn[16_827] / drawn[10_000] == pytest.approx(math.e, rel=0.02)


def test_lengths_come_in_no_order_and_alike_for_a_seed() -> None:
    lengths = parse_lengths("~220")
    one, again, other = (lengths.draw(200, random.Random(seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert sorted(one) != sorted(other)
    # Halves of a run are alike, and long prompts do not have long answers.
    assert fmean(one[:100]) == pytest.approx(fmean(one[100:]), rel=0.5)
    assert abs(correlation(one, other)) < 0.3


@pytest.mark.parametrize("text", ["", "0", "-3", "40-14", "~14-40", "a", "1e3", "200000", "1-200000", "~0"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="a length must be"):
        parse_lengths(text)


def test_the_seed_decides_on_lengths_and_times_and_the_nonce_on_texts() -> None:
    mine = load(request_rate=10.0, max_concurrency=None, input_len=parse_lengths("14-40"), seed=3)
    one, two = make_asks(mine, nonce="one"), make_asks(mine, nonce="two")
    assert [(ask.due_sec, ask.max_tokens, len(ask.prompt.split())) for ask in one] == [
        (ask.due_sec, ask.max_tokens, len(ask.prompt.split())) for ask in two
    ]
    assert make_asks(mine, nonce="one") == one
    assert not {ask.prompt for ask in one} & {ask.prompt for ask in two}


def test_no_two_prompts_of_a_run_begin_alike() -> None:
    asks = make_asks(load(num_prompts=2000, input_len=parse_lengths("14-40")), nonce="x")
    asks += make_asks(load(num_prompts=2000, num_warmups=50), nonce="x", is_warmup=True)
    # A block of a prefix cache is 16 tokens or more, and the chat template is before it.
    assert len({tuple(ask.prompt.split()[:5]) for ask in asks}) == len(asks)


def test_a_shared_prefix_is_shared_within_a_run_only() -> None:
    mine = load(shared_prefix=50)
    one, two = make_asks(mine, nonce="one"), make_asks(mine, nonce="two")
    prefixes = {ask.prompt.split("\n\n")[0] for ask in one}
    (prefix,) = prefixes
    assert len(prefix.split()) == 50
    assert not prefixes & {ask.prompt.split("\n\n")[0] for ask in two}


def test_conversations_keep_their_text_and_length_behind_words_of_their_own() -> None:
    said = [Conversation(prompt="What is a cat?", output_len=11), Conversation(prompt="Why?", output_len=5)]
    asks = make_asks(load(num_prompts=3, output_len=None, dataset_path="x.json"), said, nonce="n")
    assert [ask.max_tokens for ask in asks] == [11, 5, 11]
    assert [ask.prompt.split(": ", 1)[1] for ask in asks] == ["What is a cat?", "Why?", "What is a cat?"]
    assert len({ask.prompt for ask in asks}) == 3


def test_a_fixed_length_wins_over_that_of_the_dataset() -> None:
    said = [Conversation(prompt="What is a cat?", output_len=11)]
    asks = make_asks(load(output_len=parse_lengths("64"), dataset_path="x.json"), said, nonce="n")
    assert {ask.max_tokens for ask in asks} == {64}


def test_in_a_closed_loop_nothing_has_a_time() -> None:
    assert {ask.due_sec for ask in make_asks(load(), nonce="n")} == {None}


def test_words_are_plain_and_different() -> None:
    assert len(set(WORDS)) == len(WORDS) == 256
    assert all(word.isascii() and word.islower() and word.isalpha() for word in WORDS)


@pytest.mark.parametrize(("words", "count"), [("1", 256), ("2", 2000), ("3", 2000), ("1-3", 700)])
def test_short_prompts_are_all_different_as_far_as_words_go(words: str, count: int) -> None:
    mine = load(num_prompts=count, input_len=parse_lengths(words), num_warmups=20)
    for nonce in ("a", "b"):
        prompts = [one.prompt for one in make_asks(mine, nonce=nonce)]
        assert len(set(prompts)) == count
        if words in ("2", "3"):
            warmups = {one.prompt for one in make_asks(mine, nonce=nonce, is_warmup=True)}
            assert len(warmups | set(prompts)) == count + 20


def test_one_word_for_more_requests_than_there_are_words_comes_again() -> None:
    prompts = [
        one.prompt for one in make_asks(load(num_prompts=600, input_len=parse_lengths("1")), nonce="a")
    ]
    assert set(prompts) == set(WORDS)


@pytest.mark.parametrize(("words", "is_new"), [("1", False), ("2-40", False), ("3", True), ("14-40", True)])
def test_only_prompts_that_are_long_enough_are_called_new(words: str, *, is_new: bool) -> None:
    said = describe_newness(parse_lengths(words).low)
    assert ("so that no prefix cache can answer" in said) is is_new
    assert ("one or two words come again" in said) is not is_new
