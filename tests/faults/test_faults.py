# SPDX-License-Identifier: Apache-2.0
"""The faults in short, behind our front: what is lost when something dies is only what nobody could save.

``make faults`` runs all of them for longer and beside other balancers (README.md).
"""

from collections.abc import Iterator

import pytest
from lab.image import Image

from faults import figures, images, rig
from faults.answers import Outcome
from faults.catalogue import FAULTS, harm
from faults.peers import Balancer
from faults.run import Options, Result

pytestmark = pytest.mark.system

OPTIONS = Options(
    clients=16, fault_sec=1, seconds=2, loading_sec=1, slow_sec=2, times=3, timeout_sec=60, until_whole=True
)


@pytest.fixture(scope="module")
def image() -> Image:
    return images.prepare(frozenset({Balancer.ours}))[Balancer.ours]


@pytest.fixture
def booted(image: Image, request: pytest.FixtureRequest) -> Iterator[rig.Rig]:
    """A host whose engines are as the fault in the test's name wants them."""
    with rig.boot(image, Balancer.ours, rig.Shape()) as made:
        yield made


def assert_only_begun_answers_are_cut(result: Result) -> None:
    """Nothing is lost but streams that the victims had begun to answer."""
    found = result.figures
    assert found.answered > 0
    assert (found.lost_unary, found.lost_streamed, found.statuses) == (0, 0, {})
    cut = [one for one in result.record.requests if one.outcome is Outcome.cut]
    assert {one.kind for one in cut} <= {"stream"}
    assert set(found.cut_by) <= {engine.name for engine in result.victims}


def assert_not_asked_while_loading(result: Result) -> None:
    """No request went to a new process of a victim before that was ready; afterwards some did."""
    for engine in result.victims:
        when = figures.recovery(result.record, result.fault_at, engine.port)
        posts = [at for at, port in result.record.posts if port == engine.port and at > result.listening_at]
        assert result.listening_at < when
        assert posts
        assert min(posts) >= when


@pytest.mark.parametrize("name", ["kill", "oom"])
def test_killed_instance(booted: rig.Rig, name: str) -> None:
    assert_only_begun_answers_are_cut(harm(booted, FAULTS[name], OPTIONS))


@pytest.mark.parametrize("name", ["loading", "agent-dead"])
def test_instance_that_loads_again_is_not_asked_before_it_is_ready(booted: rig.Rig, name: str) -> None:
    result = harm(booted, FAULTS[name], OPTIONS)
    assert_only_begun_answers_are_cut(result)
    assert_not_asked_while_loading(result)


def test_killed_instance_while_systemd_is_slow(booted: rig.Rig) -> None:
    assert_only_begun_answers_are_cut(harm(booted, FAULTS["pid1"], OPTIONS))


def test_request_that_crashes_its_engine_gets_an_error_and_kills_two_at_most(booted: rig.Rig) -> None:
    before = booted.read_pids()
    result = harm(booted, FAULTS["poison"], OPTIONS)
    assert sum(result.figures.odd.values()) == 1
    assert set(result.figures.odd) <= {"poison 502", "poison 503"}
    after = booted.read_pids()
    assert 1 <= sum(after[name] != pid for name, pid in before.items()) <= 2
    assert booted.answers()


def test_bad_requests_of_one_client_harm_no_other(booted: rig.Rig) -> None:
    result = harm(booted, FAULTS["bad-requests"], OPTIONS)
    assert set(result.figures.odd) == {"bad 400"}
    assert result.figures.answered == result.figures.sent


def test_changed_model_costs_nothing(booted: rig.Rig) -> None:
    result = harm(booted, FAULTS["model-change"], OPTIONS)
    assert result.figures.answered == result.figures.sent
    assert "4 of 4 as planned" in result.notes


def test_killed_agent_goes_on_with_what_it_was_about(booted: rig.Rig) -> None:
    result = harm(booted, FAULTS["agent-kills"], OPTIONS)
    assert result.figures.answered == result.figures.sent
    assert "4 of 4 as planned" in result.notes
