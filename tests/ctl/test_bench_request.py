# SPDX-License-Identifier: Apache-2.0
"""What bench is to do, by its options."""

import pytest

from ovms_scaler.ctl.bench_request import make_request
from ovms_scaler.ctl.benching import Request
from ovms_scaler.ctl.verbs.bench import bench


def parse(*arguments: str) -> Request:
    options = bench.make_context("bench", [*arguments, "--socket", "/nowhere"]).params
    return make_request(
        **{name: value for name, value in options.items() if name not in ("html", "as_json")}
    )


@pytest.mark.parametrize(
    ("arguments", "rounds"),
    [
        ((), 1),
        # One would tell no knee.
        (("--scale", "1,2"), 3),
        (("--compare", "a", "b", "--allow-outage"), 4),
        (("--scale", "1,2", "--rounds", "1"), 1),
    ],
)
def test_how_often_each_is_measured(arguments: tuple[str, ...], rounds: int) -> None:
    assert parse(*arguments).rounds == rounds


@pytest.mark.parametrize(
    ("arguments", "clients", "requests"),
    [
        ((), (32, 192), (200, 1200)),
        (("--num-prompts", "600"), (32, 192), (600, 600)),
        (("--max-concurrency", "256"), (256, 256), (200, 200)),
        (("--request-rate", "20"), (None, None), (200, 200)),
    ],
)
def test_the_load_of_one_and_of_six(
    arguments: tuple[str, ...], clients: tuple[int | None, ...], requests: tuple[int, ...]
) -> None:
    loads = [parse("--scale", "1,6", *arguments).load.for_instances(count) for count in (1, 6)]
    assert tuple(one.max_concurrency for one in loads) == clients
    assert tuple(one.num_prompts for one in loads) == requests
