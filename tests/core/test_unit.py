# SPDX-License-Identifier: Apache-2.0
"""Drop-ins as systemd will read them: golden text, and quoting against the documented rules."""

from dataclasses import replace

import pytest
import systemd_syntax
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from ovms_scaler.core.books import Books
from ovms_scaler.core.engine import Command
from ovms_scaler.core.instance import Instance
from ovms_scaler.core.placement import place
from ovms_scaler.core.spec import Memory
from ovms_scaler.core.unit import drop_in_path, render_drop_in

COMMAND = Command(
    argv=("/opt/ovms/bin/ovms", "--rest_port", "8003", "--metrics_enable", "--model_name", "org/tiny"),
    environment={"LD_LIBRARY_PATH": "/opt/ovms/lib", "OVMS_GRAPH_QUEUE_OFF": "1"},
    open_files=4096,
    slots=256,
)
NUMA0 = place(world.spec({}), world.topology(), Books()).instances[0]
WHOLE = place(world.spec({"placement": "whole"}), world.topology(), Books()).instances[0]
HEAD = """\
# Written by ovms-scaler for instance {id}; it is replaced whenever the plan changes.
# Add your own settings with: systemctl edit ovms@{id}.service

[Unit]
Description=OpenVINO Model Server, {id}: org/tiny {where}

[Service]
"""
TAIL = """\
LimitNOFILE=4096
Environment=LD_LIBRARY_PATH=/opt/ovms/lib
Environment=OVMS_GRAPH_QUEUE_OFF=1
ExecStart=
ExecStart=/opt/ovms/bin/ovms \\
    --rest_port 8003 \\
    --metrics_enable \\
    --model_name org/tiny
"""
# Words that mean something to a shell, to systemd or to both.
NASTY = [
    "two words",
    'say "yes"',
    "it's",
    "100%",
    "%n",
    "%%",
    "$HOME",
    "${HOME}",
    "$$",
    "a\\b",
    "\\x41",
    "trailing\\",
    ";",
    "a;b",
    "#comment",
    "-dash",
    "",
    " ",
    "tab\there",
    "ünïcode",
    "'",
    '"',
    "\\\\",
    "\\;",
    "@prefix",
    "--option=a b",
    '{"A": "b%c", "d": "$e"}',
]
FORBIDDEN = "\"'\\\t"  # in the path of a program, says the configuration
WORDS = st.text(" \"'\\%$;#{}=nx04", max_size=8) | st.text(max_size=12).map(
    lambda text: "".join(char for char in text if char == " " or char.isprintable())
)


def drop_in(instance: Instance = NUMA0, command: Command = COMMAND) -> str:
    return render_drop_in(instance, command, model="org/tiny")


@pytest.mark.parametrize(
    ("instance", "where", "placement"),
    [
        pytest.param(
            NUMA0,
            "on NUMA node 0",
            "CPUAffinity=0-3\nAllowedCPUs=0-3\nNUMAPolicy=bind\nNUMAMask=0\nAllowedMemoryNodes=0\n",
            id="bound to a node",
        ),
        pytest.param(
            replace(NUMA0, memory=Memory.preferred),
            "on NUMA node 0",
            "CPUAffinity=0-3\nAllowedCPUs=0-3\nNUMAPolicy=preferred\nNUMAMask=0\n",
            id="memory preferred: no hard limit",
        ),
        pytest.param(
            replace(NUMA0, memory=None, memory_nodes=frozenset()),
            "on NUMA node 0",
            "CPUAffinity=0-3\nAllowedCPUs=0-3\n",
            id="no NUMA: no memory policy",
        ),
        pytest.param(
            replace(NUMA0, memory_nodes=frozenset({2})),
            "on NUMA node 0",
            "CPUAffinity=0-3\nAllowedCPUs=0-3\nNUMAPolicy=bind\nNUMAMask=2\nAllowedMemoryNodes=2\n",
            id="memory of another node",
        ),
        pytest.param(WHOLE, "unbound", "", id="unbound"),
    ],
)
def test_drop_in_is_exactly_this(instance: Instance, where: str, placement: str) -> None:
    assert drop_in(instance) == HEAD.format(id=instance.id, where=where) + placement + TAIL


def test_drop_in_stands_where_the_template_looks_for_it() -> None:
    assert drop_in_path("chat-numa0") == "/run/systemd/system/ovms@chat-numa0.service.d/50-placement.conf"


def test_description_has_no_specifiers() -> None:
    text = render_drop_in(NUMA0, COMMAND, model="/srv/100%/config.json")
    assert "Description=OpenVINO Model Server, chat-numa0: /srv/100%%/config.json on NUMA node 0" in text


@pytest.mark.parametrize("word", NASTY)
def test_quoted_words_come_back_from_the_rules_of_systemd(word: str) -> None:
    assert_comes_back(word)


@settings(deadline=None)
@given(WORDS)
def test_any_word_comes_back_from_the_rules_of_systemd(word: str) -> None:
    assert_comes_back(word)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=5))
def test_any_command_line_comes_back_whole(words: list[str]) -> None:
    text = drop_in(command=replace(COMMAND, argv=("/bin/true", *words)))
    assert systemd_syntax.parse_exec_start(text) == ("/bin/true", *words)


def assert_comes_back(word: str) -> None:
    """As an argument, as a program's directory and as the value of a variable."""
    program = f"/srv/{''.join(char for char in word if char not in FORBIDDEN)}/ovms"
    command = replace(COMMAND, argv=(program, "--flag", word, word), environment={"VARIABLE": word})
    text = drop_in(command=command)
    assert systemd_syntax.parse_exec_start(text) == (program, "--flag", word, word)
    assert systemd_syntax.parse_environment(text) == {"VARIABLE": word}


# On GPUs

A, B = "0000:03:00.0", "0000:04:00.0"


def on_gpus(placement: str) -> Instance:
    topology = world.topology(cores=8, gpus=[world.gpu(A), world.gpu(B, render=129)])
    return place(world.spec({"placement": placement}), topology, Books()).instances[0]


ON_A = f"""\
# Written by ovms-scaler for instance chat-gpu-{A}; it is replaced whenever the plan changes.
# Add your own settings with: systemctl edit ovms@chat-gpu-{A}.service

[Unit]
Description=OpenVINO Model Server, chat-gpu-{A}: org/tiny on GPU {A}
StopPropagatedFrom=dev-dri-renderD128.device
After=dev-dri-renderD128.device
AssertPathExists=/dev/dri/renderD128

[Service]
CPUAffinity=12-15
AllowedCPUs=12-15
NUMAPolicy=bind
NUMAMask=0
AllowedMemoryNodes=0
SupplementaryGroups=render
DeviceAllow=/dev/dri/renderD128 rw
BindPaths=-/dev/dri/renderD128
"""


def test_drop_in_on_a_gpu_is_exactly_this() -> None:
    text = drop_in(on_gpus("gpu"))
    assert text == ON_A + TAIL
    assert systemd_syntax.parse_exec_start(text) == COMMAND.argv
    assert systemd_syntax.parse_environment(text) == COMMAND.environment
    assert drop_in_path(f"chat-gpu-{A}") == (
        f"/run/systemd/system/ovms@chat-gpu-{A}.service.d/50-placement.conf"
    )


def test_drop_in_on_several_gpus_opens_each_of_its_own() -> None:
    text = drop_in(on_gpus("hetero"))
    assert systemd_syntax.values(text, "StopPropagatedFrom") == [
        "dev-dri-renderD128.device dev-dri-renderD129.device"
    ]
    assert systemd_syntax.values(text, "AssertPathExists") == ["/dev/dri/renderD128", "/dev/dri/renderD129"]
    assert systemd_syntax.values(text, "DeviceAllow") == ["/dev/dri/renderD128 rw", "/dev/dri/renderD129 rw"]
    assert systemd_syntax.values(text, "BindPaths") == ["-/dev/dri/renderD128", "-/dev/dri/renderD129"]
    assert systemd_syntax.values(text, "CPUAffinity") == ["8-15"]
    assert f"Description=OpenVINO Model Server, chat-hetero0: org/tiny on GPU {A}, {B}\n" in text


@pytest.mark.parametrize("instance", [NUMA0, WHOLE])
def test_drop_in_on_cpus_opens_no_device(instance: Instance) -> None:
    text = drop_in(instance)
    for name in ("DeviceAllow", "BindPaths", "SupplementaryGroups", "StopPropagatedFrom", "After"):
        assert systemd_syntax.values(text, name) == []
