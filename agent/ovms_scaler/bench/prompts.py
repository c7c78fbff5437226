# SPDX-License-Identifier: Apache-2.0
"""Prompts that no engine has seen before, so that its prefix cache cannot answer for it.

Lengths are in words: these are common enough to be one token each in the vocabularies of current models, but
how many tokens a prompt really was, chat template included, only the engine can tell (``usage``).
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence

_TEXT = """\
about above after again air all almost along also always animal answer any around ask away back ball
base bear beat because bed been before began behind best better big bird black blue boat body book
both bottom box boy bring brown build bus buy call came can car care carry case cat catch cause
center change check city class clean clear climb close cold color come common complete cook cool
copy corn could count country course cover cross cry cut dark day decide deep did direct dish dog
done door down draw dream dress drink drive dry early earth ease east eat edge end enough even
evening ever every eye face fact fall family far farm fast father feel feet few field fight figure
fill final find fine fire first fish five fly follow food foot force forest form found four free
friend from front full game garden gave get girl give glass gold gone good great green ground group
grow half hand happy hard have head hear heart heat heavy help here high hill hold home hope horse
hot hour house idea inch island jump just keep kind king knew know land language large last late
laugh law lead learn leave left letter life light like line list listen little live long look lost
love low machine made main make many map mark may mean measure meet men mile milk mind minute miss
money moon more morning most mother mountain move much music must name near need never new next
night nine north note
"""
WORDS = tuple(_TEXT.split())
# So few words drawn at random would come again within a run; and so few are used up by other runs.
_FEW_WORDS, _TOO_FEW_WORDS = 5, 2
# Three of them before a prompt of a dataset: there are sixteen million ways to begin.
_MARK_WORDS = 3


def synthetic_prompts(
    lengths: Sequence[int], *, nonce: str, shared_prefix: int, start: int = 0
) -> Iterator[str]:
    """One prompt of each length, in words, all of another text for another ``nonce``.

    The first ``shared_prefix`` words come on top, and are the same in all of them: what a prefix cache is
    for. ``start`` is the number of the first, so that a later call goes on with others.
    """
    prefix = _prefix(nonce, shared_prefix)
    drawn: Counter[int] = Counter()
    for number, length in enumerate(lengths, start):
        if length > _FEW_WORDS:
            words = _draw(f"{nonce} {number}", length)
        else:
            words = _count(nonce, start + drawn[length], length)
            drawn[length] += 1
        yield prefix + " ".join(words)


def marked_prompts(texts: Sequence[str], *, nonce: str, shared_prefix: int, start: int = 0) -> Iterator[str]:
    """Each text behind a few words of its own, so that it is new also to who has seen it before."""
    prefix = _prefix(nonce, shared_prefix)
    for number, text in enumerate(texts, start):
        yield f"{prefix}{' '.join(_draw(f'{nonce} {number}', _MARK_WORDS))}: {text}"


def describe_newness(shortest: int) -> str:
    """Whether an engine can have seen such prompts before, the shortest of so many words."""
    if shortest > _TOO_FEW_WORDS:
        return "of other text in each run, so that no prefix cache can answer"
    return (
        "of other text in each run; but those of one or two words come again, and a prefix cache may answer"
    )


def _prefix(nonce: str, length: int) -> str:
    return " ".join(_draw(f"{nonce} prefix", length)) + "\n\n" if length else ""


def _draw(seed: str, count: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def _count(nonce: str, number: int, length: int) -> list[str]:
    """Words that no other number has, as long as there are as many combinations: they are counted through.

    They are the digits of (first + number * step) modulo all combinations, which repeats nothing before the
    end where step and modulus have no common divisor.
    """
    source = random.Random(f"{nonce} {length} words")
    combinations = len(WORDS) ** length
    first, step = source.randrange(combinations), source.randrange(combinations)
    while math.gcd(step, combinations) != 1:
        step = source.randrange(combinations)
    at = (first + number * step) % combinations
    return [WORDS[at // len(WORDS) ** place % len(WORDS)] for place in range(length)]
