# SPDX-License-Identifier: Apache-2.0
"""The text of a first configuration: valid as it is, and with every line of it in force."""

import re
import tomllib
from dataclasses import replace
from typing import Any

import pytest

from ovms_scaler.core.first_config import (
    WIDTH,
    First,
    Where,
    describe_machine,
    render_first,
    suggest_name,
    usable_gpus,
)
from ovms_scaler.core.model import ModelFacts, ModelKind
from ovms_scaler.core.rules import parse_spec
from ovms_scaler.core.spec import Pool, Spec
from ovms_scaler.core.table import Reader
from ovms_scaler.core.topology import Gpu, Node, Topology

LLM = ModelFacts(path="/srv/models/org/llama", kind=ModelKind.llm, generates=True)
SERVED = ModelFacts(path="/srv/models/config.json", kind=ModelKind.config, served_names=("a", "b"))
CLASSIC = ModelFacts(path="/srv/models/resnet", kind=ModelKind.classic)
FIRST = First(
    model=LLM, model_name="org/llama", where=Where.numa, listen="8000", binary="/opt/ovms/bin/ovms"
)


def gpu(number: int, **changes: Any) -> Gpu:
    facts = Gpu(
        address=f"0000:0{number}:00.0",
        render_node=f"/dev/dri/renderD{127 + number}",
        vendor_id="0x8086",
        device_id="0xe20b",
        driver="xe",
        numa_node=0,
        integrated=False,
    )
    return replace(facts, **changes)


def machine(*gpus: Gpu) -> Topology:
    cpus = frozenset(range(4))
    return Topology(
        nodes=(Node(id=0, cpus=cpus, memory_bytes=1 << 34),),
        cores=(frozenset({0, 1}), frozenset({2, 3})),
        online=cpus,
        allowed=cpus,
        allowed_memory_nodes=frozenset({0}),
        gpus=gpus,
    )


def parse(text: str) -> Spec:
    return parse_spec(tomllib.loads(text), Reader(lambda _: "first.toml"))


def uncomment(text: str) -> str:
    """The file with every "#key = value" and "#[table]" in force."""
    return re.sub(r"^#(?=[a-z_]+ = |\[)", "", text, flags=re.M)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param("/srv/models/org/llama", "org/llama", id="as ovms --pull puts it"),
        pytest.param("/srv/models/llama/", "llama", id="right in the directory"),
        pytest.param("/srv/models/a/b/org/llama", "org/llama", id="deep"),
        pytest.param("/srv/models/team/org/llama", "org/llama", id="in the innermost directory"),
        pytest.param("/home/me/org/llama", "llama", id="elsewhere"),
        pytest.param("/srv/models-old/org/llama", "llama", id="beside the directory"),
        pytest.param("/srv/models/my llama", None, id="space"),
        pytest.param("/srv/models/größe", None, id="not ASCII"),
        pytest.param("/srv/models/-llama", None, id="like an option"),
    ],
)
def test_name_is_the_path_below_the_directory(path: str, name: str | None) -> None:
    assert suggest_name(path, ["/srv/models", "/srv/models/team/", "/opt/models"]) == name


def test_name_is_one_that_the_configuration_takes() -> None:
    name = suggest_name("/srv/models/org/llama", ["/srv/models"])
    assert parse(render_first(replace(FIRST, model_name=name), machine())).pool[0].model_name == "org/llama"


def test_only_what_is_needed_is_in_force() -> None:
    assert tomllib.loads(render_first(FIRST, machine())) == {
        "pool": [{"name": "chat", "model_name": "org/llama", "model_path": "/srv/models/org/llama"}]
    }


def test_what_is_not_as_by_default_is_in_force() -> None:
    first = replace(FIRST, where=Where.gpu, listen="127.0.0.1:9000", binary="/opt/new/bin/ovms")
    document = tomllib.loads(render_first(first, machine(gpu(1))))
    (pool,) = document["pool"]
    assert (pool["placement"], pool["listen"]) == ("gpu", "127.0.0.1:9000")
    assert document["engine"] == {"binary": "/opt/new/bin/ovms"}


def test_both_are_two_pools_behind_one_address() -> None:
    first = replace(FIRST, where=Where.both, listen="9000")
    on_cpus, on_gpus = parse(render_first(first, machine(gpu(1)))).pool
    assert (on_cpus.placement, on_gpus.placement) == ("numa", "gpu")
    assert on_cpus.name != on_gpus.name
    for name in ("model_name", "model_path", "listen"):
        assert getattr(on_cpus, name) == getattr(on_gpus, name)


@pytest.mark.parametrize(
    ("model", "pool"),
    [
        pytest.param(
            CLASSIC, {"name": "model", "model_name": "x", "model_path": CLASSIC.path}, id="classic"
        ),
        pytest.param(SERVED, {"name": "model", "config_path": SERVED.path}, id="config.json"),
    ],
)
def test_models_that_do_not_chat(model: ModelFacts, pool: dict[str, str]) -> None:
    first = replace(FIRST, model=model, model_name="x")
    assert tomllib.loads(render_first(first, machine())) == {"pool": [pool]}


@pytest.mark.parametrize("where", Where)
@pytest.mark.parametrize("model", [LLM, CLASSIC, SERVED], ids=lambda model: model.kind)
def test_every_line_may_be_put_in_force(where: Where, model: ModelFacts) -> None:
    """What has no effect with the placement or the model is not offered: it would be an error."""
    text = uncomment(render_first(replace(FIRST, where=where, model=model), machine(gpu(1))))
    if "library_path" in text:
        assert parse(text).engine.library_path
    assert len(parse(text).pool) == (2 if where is Where.both else 1)


def test_comments_show_defaults_and_mark_examples() -> None:
    lines = render_first(FIRST, machine()).splitlines()
    for number, line in enumerate(lines):
        if (found := re.match(r"#(\w+) = (.*)", line)) and hasattr(Pool(name="x"), found[1]):
            default = getattr(Pool(name="x"), found[1])
            above = [above for above in lines[max(0, number - 3) : number] if above.startswith("# ")]
            is_example = any("(Example)" in above for above in above[-1:] + above[-2:-1])
            assert is_example is (default in (None, "", ()))
            if not is_example:
                assert tomllib.loads(f"value = {found[2]}")["value"] == default


@pytest.mark.parametrize("where", Where)
def test_it_fits_a_terminal(where: Where) -> None:
    text = render_first(replace(FIRST, where=where), machine(gpu(1), gpu(2)))
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize("path", ['/srv/a "quoted" name', "/srv/größe", "/srv/back\\slash", "/srv/#hash"])
def test_any_path_survives(path: str) -> None:
    text = render_first(replace(FIRST, model=replace(LLM, path=path)), machine())
    assert tomllib.loads(text)["pool"][0]["model_path"] == path


def test_gpus_that_nobody_could_use_do_not_count() -> None:
    cards = (
        gpu(1),
        gpu(2, vendor_id="0x10de"),
        gpu(3, render_node=None),
        gpu(4, integrated=True),
        gpu(5, physical_function="0000:01:00.0"),
    )
    assert [one.address for one in usable_gpus(machine(*cards))] == ["0000:01:00.0"]
    assert describe_machine(machine(*cards), usable_gpus(machine(*cards))) == "1 NUMA node, 2 cores, 1 GPU"
    assert describe_machine(machine(), ()) == "1 NUMA node, 2 cores, no GPU"
