# SPDX-License-Identifier: Apache-2.0
"""The configuration with unbound instances, and TOML in general."""

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_scaler.bench.whole import make_whole, note_confined, render_toml
from ovms_scaler.errors import InputError

CONFIG = """\
# Comment
[proxy]
read_timeout_sec = 600

[[pool]]
name = "chat"
nodes = "0-1"
instances_per_node = 2
[pool.graph]
cache_size = 10
[pool.ovms]
environment = { "A B" = "x\\"y", C = "1" }

[[pool]]
name = "fast"
placement = "gpu"
gpus = ["0000:03:00.0"]
"""


def test_what_is_no_toml_is_told() -> None:
    with pytest.raises(InputError, match="the configuration is not TOML: ") as refused:
        make_whole("[[pool]\n")
    assert refused.value.hint == "ovms-scalerctl check-config"


def test_pools_on_nodes_become_whole_and_nothing_else_changes() -> None:
    wanted = tomllib.loads(CONFIG)
    chat = wanted["pool"][0]
    del chat["nodes"], chat["instances_per_node"]
    chat["placement"] = "whole"
    assert tomllib.loads(make_whole(CONFIG)) == wanted


def test_pools_that_keep_to_a_part_of_the_machine_are_told() -> None:
    (note,) = note_confined(CONFIG)
    assert note == (
        'THE UNBOUND INSTANCE MAY USE MORE OF THE MACHINE: pool chat has nodes = "0-1", which placement = '
        '"whole" does not know.'
    )
    assert note_confined('[[pool]]\nname = "chat"\ninstances_per_node = 2\n') == []


def test_without_a_pool_on_nodes_there_is_nothing_to_compare() -> None:
    with pytest.raises(InputError, match="nothing to compare with"):
        make_whole('[[pool]]\nname = "fast"\nplacement = "gpu"\n')


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=3),
    lambda inner: (
        st.dictionaries(KEYS, inner, max_size=3)
        | st.lists(st.dictionaries(KEYS, inner, max_size=3), min_size=1, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=25)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_is_read_again(document: dict[str, Any]) -> None:
    assert tomllib.loads(render_toml(document)) == document
