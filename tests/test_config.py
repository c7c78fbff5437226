# SPDX-License-Identifier: Apache-2.0
"""Configuration files: what is read, how files add up, and what each mistake is answered."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ovms_scaler.config import MAX_FILE_BYTES, Config, read_config, restore_config
from ovms_scaler.core.spec import Memory, Placement, Smt, schema
from ovms_scaler.errors import ConfigError, InputError, Problem

REPOSITORY = Path(__file__).parent.parent
POOL = '[[pool]]\nname = "chat"\nmodel_name = "org/model"\nmodel_path = "/srv/model"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def read(file: Path, text: str) -> Config:
    file.write_text(text)
    return read_config(file)


def refuse(file: Path, text: str | bytes) -> tuple[Problem, ...]:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as refused:
        read_config(file)
    return refused.value.problems


def test_the_smallest_file_that_serves(file: Path) -> None:
    (pool,) = read(file, POOL).spec.pool
    assert (pool.name, pool.model_name, pool.model_path) == ("chat", "org/model", "/srv/model")
    assert (pool.placement, pool.listen, pool.smt, pool.memory) == (
        Placement.numa,
        "8000",
        Smt.all,
        Memory.bind,
    )


def test_an_empty_file_is_a_configuration_without_pools(file: Path) -> None:
    assert read(file, "").spec.pool == ()


def test_the_shipped_file_is_accepted_and_serves_nothing() -> None:
    assert read_config(REPOSITORY / "packaging/config.toml").spec.pool == ()


SYNTAX = "strings need quotes; tables are [name], pools are [[pool]]"
CASES = [
    pytest.param(
        b"[[pool]\n",
        "",
        "is not TOML: Expected ']]' at the end of an array declaration (at line 1, column 7)",
        SYNTAX,
        id="bracket missing",
    ),
    pytest.param(
        b"listen = 8000 8001\n",
        "",
        "is not TOML: Expected newline or end of document after a statement (at line 1, column 15)",
        SYNTAX,
        id="two values",
    ),
    pytest.param(
        b"a = 1\na = 2\n",
        "",
        "is not TOML: Cannot overwrite a value (at line 2, column 6)",
        SYNTAX,
        id="key given twice",
    ),
    pytest.param(
        b"a = '\0'",
        "",
        "is not TOML: Found invalid character '\\x00' (at line 1, column 6)",
        SYNTAX,
        id="NUL",
    ),
    pytest.param(
        b'a = "\xff"', "", "must be UTF-8, and byte 5 is not", "save the file as UTF-8", id="Latin-1"
    ),
    pytest.param(
        b"a = " + b"[" * 50_000,
        "",
        "is not TOML: maximum recursion depth exceeded",
        SYNTAX,
        id="deep nesting",
    ),
    pytest.param(
        b"#" * (MAX_FILE_BYTES + 1),
        "",
        f"must not be larger than {MAX_FILE_BYTES} bytes",
        None,
        id="huge file",
    ),
    pytest.param(
        "[helth]\n", "helth", "is not a key of this table", 'did you mean "health"?', id="unknown table"
    ),
    pytest.param(
        "[health]\nport = 1\n",
        "health.port",
        "is not a key of this table",
        "known here: busy_sec, canary_interval_sec, canary_timeout_sec, failures, interval_sec, "
        "repair_attempts, repair_window_sec, stall_sec, successes, timeout_sec",
        id="unknown key like no other",
    ),
    pytest.param(
        POOL + 'placment = "numa"\n',
        "pool[0].placment",
        "is not a key of this table",
        'did you mean "placement"?',
        id="misspelt key",
    ),
    pytest.param(
        POOL + "[pool.graph]\ncachesize = 4\n",
        "pool[0].graph.cachesize",
        "is not a key of this table",
        'did you mean "cache_size"?',
        id="misspelt key of a sub-table",
    ),
    pytest.param(
        'pool = "chat"\n',
        "pool",
        "must be an array of tables, not 'chat'",
        "write [[pool]]",
        id="string for a pool",
    ),
    pytest.param(
        '[pool]\nname = "chat"\n',
        "pool",
        "must be an array of tables, not {'name': 'chat'}",
        "write [[pool]]",
        id="single brackets",
    ),
    pytest.param("health = 1\n", "health", "must be a table, not 1", None, id="number for a table"),
    pytest.param(
        POOL + "listen = 8000\n",
        "pool[0].listen",
        "must be a string, not 8000",
        'for example "127.0.0.1:8000"',
        id="number for a string",
    ),
    pytest.param(
        POOL + 'weight = "32"\n',
        "pool[0].weight",
        "must be a whole number, not '32'",
        "for example 32",
        id="string for a number",
    ),
    pytest.param(
        POOL + "weight = 1.5\n",
        "pool[0].weight",
        "must be a whole number, not 1.5",
        "for example 32",
        id="fraction",
    ),
    pytest.param(
        POOL + "weight = true\n",
        "pool[0].weight",
        "must be a whole number, not True",
        "for example 32",
        id="boolean for a number",
    ),
    pytest.param(
        '[health]\ninterval_sec = "1s"\n',
        "health.interval_sec",
        "must be a number, not '1s'",
        "for example 0.5",
        id="unit in a number",
    ),
    pytest.param(
        POOL + "[pool.graph]\nenable_prefix_caching = 1\n",
        "pool[0].graph.enable_prefix_caching",
        "must be true or false, not 1",
        "for example true",
        id="number for a boolean",
    ),
    pytest.param(
        POOL + '[pool.ovms]\nflags = "--x"\n',
        "pool[0].ovms.flags",
        "must be an array of strings, not '--x'",
        'for example ["--log_level", "DEBUG"]',
        id="string for an array",
    ),
    pytest.param(
        POOL + "[pool.ovms]\nenvironment = { A = 1 }\n",
        "pool[0].ovms.environment",
        "must be a table of strings, not {'A': 1}",
        None,
        id="number in the environment",
    ),
    pytest.param(
        "[proxy]\nmode = 1979-05-27\n",
        "proxy.mode",
        "must be one of 'http', 'stream', not datetime.date(1979, 5, 27)",
        None,
        id="date",
    ),
    pytest.param(
        '[proxy]\nmode = "htpp"\n',
        "proxy.mode",
        "must be one of 'http', 'stream', not 'htpp'",
        'did you mean "http"?',
        id="misspelt choice",
    ),
    pytest.param(
        "[health]\nfailures = 0\n", "health.failures", "must be 1 or greater, not 0", None, id="too small"
    ),
    pytest.param(
        "[health]\nfailures = 101\n", "health.failures", "must be 100 or less, not 101", None, id="too large"
    ),
    pytest.param(
        "[health]\ninterval_sec = nan\n",
        "health.interval_sec",
        "must be 0.1 or greater, not nan",
        None,
        id="not a number",
    ),
    pytest.param(
        "[health]\ninterval_sec = inf\n",
        "health.interval_sec",
        "must be 60 or less, not inf",
        None,
        id="infinity",
    ),
    pytest.param(
        POOL + f"weight = 0x{'f' * 5000}\n",
        "pool[0].weight",
        "must be 10000 or less, not one too large to show",
        None,
        id="number of many digits",
    ),
    pytest.param(
        f"[proxy]\nmode.{'a.' * 3_000}b = 1\n",
        "proxy.mode",
        "must be one of 'http', 'stream', not one too large to show",
        None,
        id="many dotted keys",
    ),
    pytest.param(
        f'[proxy]\nmode = "{"x" * 10_000}"\n',
        "proxy.mode",
        f"must be one of 'http', 'stream', not '{'x' * 199}...",
        None,
        id="long string",
    ),
    pytest.param(
        POOL.replace("chat", "Chat"),
        "pool[0].name",
        "must be 1 to 32 of a-z, 0-9 and '-', not starting or ending with '-', not 'Chat'",
        'for example "chat"',
        id="upper case in a name",
    ),
    pytest.param(
        POOL.replace("chat", "a/../b"),
        "pool[0].name",
        "must be 1 to 32 of a-z, 0-9 and '-', not starting or ending with '-', not 'a/../b'",
        'for example "chat"',
        id="path in a name",
    ),
    pytest.param(
        POOL.replace("/srv/model", "srv/model"),
        "pool[0].model_path",
        "must be an absolute path, not 'srv/model'",
        'for example "/srv/models/llama"',
        id="relative path",
    ),
    pytest.param(
        POOL.replace("/srv/model", "/srv/\\u001bm"),
        "pool[0].model_path",
        "must not contain control characters, not '/srv/\\x1bm'",
        None,
        id="control character",
    ),
    pytest.param(
        POOL.replace("org/model", "a\\nb"),
        "pool[0].model_name",
        "must not contain control characters, not 'a\\nb'",
        None,
        id="newline in a name",
    ),
    pytest.param(
        POOL + 'listen = "localhost:8000"\n',
        "pool[0].listen",
        "must be a port or ADDRESS:PORT with a literal address, not 'localhost:8000'",
        'for example "127.0.0.1:8000"',
        id="host name",
    ),
    pytest.param(
        POOL + 'listen = "65536"\n',
        "pool[0].listen",
        "must name a port from 1 to 65535, not 65536",
        'for example "127.0.0.1:8000"',
        id="port out of range",
    ),
    pytest.param(
        POOL + 'nodes = "0-"\n',
        "pool[0].nodes",
        "cannot read CPU list '0-': '0-' must be a number or a range like '0-31'",
        'for example "0-2"',
        id="half a range",
    ),
    pytest.param(
        '[[pool]]\nmodel_name = "m"\nmodel_path = "/m"\n',
        "pool[0].name",
        "is required and missing",
        'for example name = "chat"',
        id="no name",
    ),
    pytest.param(
        '[[pool]]\nname = "chat"\n',
        "pool[0].model_name",
        "is required and missing",
        "give model_name and model_path, or config_path",
        id="no model",
    ),
    pytest.param(
        '[[pool]]\nname = "chat"\nmodel_name = "m"\n',
        "pool[0].model_path",
        "is required and missing",
        "give model_name and model_path, or config_path",
        id="no path",
    ),
    pytest.param(
        POOL + 'config_path = "/c.json"\n',
        "pool[0].config_path",
        "excludes model_name and model_path, and both are given",
        "config_path is for several models in one OVMS config.json",
        id="two kinds of model",
    ),
    pytest.param(
        '[[pool]]\nname = "a"\nconfig_path = "/c.json"\ngraph.cache_size = 4\n',
        "pool[0].graph",
        "has no effect with config_path",
        "set these options in the graph.pbtxt of each model of that config.json",
        id="graph of several models",
    ),
    pytest.param(
        POOL + 'placement = "whole"\nnodes = "0"\n',
        "pool[0].nodes",
        'has no effect with placement = "whole"',
        "remove it",
        id="nodes of an unbound instance",
    ),
    pytest.param(
        POOL + POOL,
        "pool[1].name",
        "'chat' is the name of pool[0] already",
        "every pool needs a name of its own",
        id="one name twice",
    ),
    pytest.param(
        POOL + '[pool.ovms]\nflags = ["--rest_port=1"]\n',
        "pool[0].ovms.flags",
        "must not contain '--rest_port'",
        "ports are remembered per instance; engine.first_port says where they begin",
        id="flag of our own",
    ),
    pytest.param(
        POOL + '[pool.ovms]\nenvironment = { "A B" = "1" }\n',
        "pool[0].ovms.environment",
        "has a variable named 'A B', which systemd refuses",
        "names are letters, digits and '_', not starting with a digit",
        id="variable's name",
    ),
]


@pytest.mark.parametrize(("text", "key", "rule", "hint"), CASES)
def test_each_mistake_has_its_message(
    text: str | bytes, key: str, rule: str, hint: str | None, file: Path
) -> None:
    assert refuse(file, text) == (Problem(file=str(file), key=key, rule=rule, hint=hint),)


def test_a_number_of_thousands_of_decimal_digits_is_refused(file: Path) -> None:
    (problem,) = refuse(file, f"{POOL}weight = {'9' * 5000}\n")
    assert problem.rule.startswith("is not TOML: Exceeds the limit (4300 digits)")


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    text = f"{POOL}weight = 0\nsmt = 'both'\n{POOL.replace('chat', '')}[engine]\nfirst_port = 80\n"
    assert [problem.key for problem in refuse(file, text)] == [
        "pool[0].weight",
        "pool[0].smt",
        "pool[1].name",
        "engine.first_port",
    ]


def test_a_message_has_file_key_rule_and_hint(file: Path) -> None:
    file.write_text(POOL + 'placment = "numa"\n')
    with pytest.raises(ConfigError) as refused:
        read_config(file)
    assert str(refused.value) == (
        f'{file}: pool[0].placment: is not a key of this table\n  hint: did you mean "placement"?'
    )


def test_a_missing_file(file: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(file)
    assert [problem.rule for problem in refused.value.problems] == ["cannot read: No such file or directory"]


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(tmp_path)
    assert [problem.rule for problem in refused.value.problems] == ["cannot read: Is a directory"]


def test_a_device_that_never_ends(file: Path) -> None:
    file.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="must not be larger than"):
        read_config(file)


@pytest.fixture
def drop_in(tmp_path: Path) -> Path:
    directory = tmp_path / "config.d"
    directory.mkdir()
    return directory / "50-local.toml"


def test_a_drop_in_adds_pools_and_overrides_single_keys(file: Path, drop_in: Path) -> None:
    drop_in.write_text(POOL.replace("chat", "draft") + "[proxy]\nretry_after_sec = 9\n")
    spec = read(file, POOL + '[proxy]\nmode = "stream"\nretry_after_sec = 7\n').spec
    assert [pool.name for pool in spec.pool] == ["chat", "draft"]
    assert (spec.proxy.mode, spec.proxy.retry_after_sec) == ("stream", 9)


def test_drop_ins_are_read_in_order_of_their_names(file: Path, drop_in: Path) -> None:
    for name, number in (("90-z", 3), ("10-a", 2), ("50-local", 4)):
        drop_in.with_name(f"{name}.toml").write_text(f"[health]\nfailures = {number}\n")
    assert read(file, "[health]\nfailures = 1\n").spec.health.failures == 3


def test_other_files_beside_the_drop_ins_are_left_alone(file: Path, drop_in: Path) -> None:
    for name in ("50-local.toml~", "50-local.toml.dpkg-old", "README"):
        drop_in.with_name(name).write_text("nonsense")
    assert read(file, POOL).spec.pool


def test_a_mistake_names_the_file_it_stands_in(file: Path, drop_in: Path) -> None:
    drop_in.write_text(POOL.replace('"chat"', '"Draft"') + "[proxy]\nretry_after_sec = 0\n")
    problems = refuse(file, POOL + '[proxy]\nmode = "http"\n[health]\nfailures = 0\n')
    assert [(problem.file, problem.key) for problem in problems] == [
        (str(drop_in), "pool[1].name"),
        (str(drop_in), "proxy.retry_after_sec"),
        (str(file), "health.failures"),
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "[", "a[", "[0", "]", "[0]", "a.b[1", "x.", "\n\x1b[2J"])
def test_a_mistake_below_an_odd_name_is_told(file: Path, name: str) -> None:
    quoted = json.dumps(name)
    problems = refuse(file, f'{POOL}[pool.ovms.environment]\n{quoted} = "\\u0007"\n[{quoted}]\n')
    keys = [problem.key for problem in problems]
    assert f"pool[0].ovms.environment.{name}" in keys
    assert name in keys
    assert {problem.file for problem in problems} == {str(file)}
    assert not [char for problem in problems for char in str(problem) if char < " " and char != "\n"]
    assert "\x1b" not in name or r"\n\x1b[2J" in str(problems[0])


def test_a_name_given_again_in_a_drop_in_names_the_drop_in(file: Path, drop_in: Path) -> None:
    drop_in.write_text(POOL)
    (problem,) = refuse(file, POOL)
    assert (problem.file, problem.key) == (str(drop_in), "pool[1].name")


def test_every_file_that_is_no_toml_is_told(file: Path, drop_in: Path) -> None:
    drop_in.write_text("x")
    assert [problem.file for problem in refuse(file, "y")] == [str(file), str(drop_in)]


def test_a_drop_in_that_is_a_directory_or_a_link_to_nothing_is_told(file: Path, drop_in: Path) -> None:
    drop_in.mkdir()
    drop_in.with_name("60.toml").symlink_to("gone")
    assert [problem.rule for problem in refuse(file, "")] == [
        "cannot read: Is a directory",
        "cannot read: No such file or directory",
    ]


def test_config_d_that_is_a_file_is_nothing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.d").write_text("")
    assert read(file, POOL).spec.pool


def test_problems_that_show_on_the_machine_get_their_file(file: Path, drop_in: Path) -> None:
    drop_in.write_text(POOL.replace("chat", "draft"))
    config = read(file, POOL)
    found = ConfigError(
        [
            Problem(file="", key=key, rule="x")
            for key in ("pool[0].nodes", "pool[1].nodes", "pool", "proxy.mode")
        ]
    )
    assert [problem.file for problem in config.locate(found).problems] == [
        str(file),
        str(drop_in),
        str(file),
        str(file),
    ]


def test_an_accepted_configuration_comes_back_from_json(file: Path, drop_in: Path) -> None:
    drop_in.write_text("[health]\nfailures = 7\n")
    config = read(file, POOL + "[pool.ovms]\nenvironment = { A = '1' }\n")
    assert restore_config(json.loads(json.dumps(config.document()))) == config


@pytest.mark.parametrize(
    "document",
    [
        None,
        1,
        "x",
        [],
        {},
        {"file": 1, "merged": {}, "origins": {}},
        {"file": "/x", "merged": [], "origins": {}},
    ],
    ids=repr,
)
def test_what_is_no_configuration_does_not_come_back(document: object) -> None:
    with pytest.raises(InputError, match="it is not one of ours"):
        restore_config(document)


def test_what_breaks_a_rule_does_not_come_back() -> None:
    with pytest.raises(ConfigError, match="is not a key of this table"):
        restore_config({"file": "/x", "merged": {"x": 1}, "origins": {}})


def shipped_schema() -> dict[str, Any]:
    text = (REPOSITORY / "packaging/config.schema.json").read_text()
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_the_shipped_schema_is_up_to_date() -> None:
    # To mend it: python3 -m ovms_scaler.ctl schema >packaging/config.schema.json
    text = (REPOSITORY / "packaging/config.schema.json").read_text()
    assert text == json.dumps(schema(), indent=2) + "\n"


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(shipped_schema())


def test_the_schema_accepts_what_is_accepted(file: Path) -> None:
    config = read(
        file, POOL + "[pool.graph]\ncache_size = 4\n[pool.ovms]\nflags = ['--x']\n[health]\nfailures=2\n"
    )
    jsonschema.validate(dict(config.merged), shipped_schema())


@pytest.mark.parametrize(
    "document",
    [
        {"helth": {}},
        {"pool": "chat"},
        {"pool": [{"name": "Chat", "model_name": "m", "model_path": "/m"}]},
        {"pool": [{"model_name": "m", "model_path": "/m"}]},
        {"pool": [{"name": "a", "placement": "nmua"}]},
        {"health": {"failures": 0}},
        {"health": {"interval_sec": "1s"}},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses_what_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, shipped_schema())


def test_reading_leaves_no_file_open(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    read(file, POOL)
    refuse(file, b"\xff")
    assert len(os.listdir("/proc/self/fd")) == before
