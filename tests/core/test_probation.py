# SPDX-License-Identifier: Apache-2.0
"""When one that was taken out of rotation is believed again."""

from ovms_scaler.core.probation import LONGEST_WAIT_SEC, MEMORY_SEC, Probation


def until_believed(probation: Probation, now_sec: float) -> float:
    """When it is, with two good probes a second from now on."""
    while probation.note_good(now_sec=now_sec):
        now_sec += 0.5
    return now_sec


def test_one_that_was_never_out_is_believed() -> None:
    probation = Probation(successes=3)
    probation.note_bad()
    assert probation.note_good(now_sec=0.0) == ""


def test_it_takes_some_good_probes_in_a_row() -> None:
    probation = Probation(successes=3)
    probation.note_out(now_sec=0.0)
    doubt = probation.note_good(now_sec=1.0)
    assert doubt == "it answers again, and is put back after 3 good probes in a row"
    assert probation.note_good(now_sec=1.5) == doubt
    probation.note_bad()
    assert until_believed(probation, 2.0) == 3.0
    assert probation.note_good(now_sec=4.0) == ""


def test_it_waits_longer_each_time() -> None:
    probation, waits, now_sec = Probation(successes=1), [], 0.0
    for _ in range(9):
        probation.note_out(now_sec=now_sec)
        probation.note_out(now_sec=now_sec)
        back_sec = until_believed(probation, now_sec)
        waits.append(back_sec - now_sec)
        now_sec = back_sec + 1
    assert waits == [0, 2, 4, 8, 16, 32, LONGEST_WAIT_SEC, LONGEST_WAIT_SEC, LONGEST_WAIT_SEC]
    probation.note_out(now_sec=now_sec + MEMORY_SEC)
    assert until_believed(probation, now_sec + MEMORY_SEC) == now_sec + MEMORY_SEC


def test_the_reason_says_for_how_long() -> None:
    probation = Probation(successes=1)
    for now_sec in (0.0, 10.0):
        until_believed(probation, now_sec)
        probation.note_out(now_sec=now_sec)
    assert probation.note_good(now_sec=11.0).endswith("and 2 s, as it was taken out 2 times")
