# SPDX-License-Identifier: Apache-2.0
"""The text of GET /metrics: the agent's own, and those of engines, some of them slow or wrong."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from core.test_metrics import INSTANCE, MEASURED, measures, status
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ovms_scaler.core.tally import Tally
from ovms_scaler.daemon import metrics as metrics_module
from ovms_scaler.daemon.engine_metrics import (
    MAX_LINE_CHARACTERS,
    LabelSets,
    merge_engine_metrics,
    parse_engine_metrics,
)
from ovms_scaler.daemon.metrics import Metrics
from ovms_scaler.errors import InputError
from ovms_scaler.host.ovms import Engine

OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
LIMIT_SEC = 10
REAL = """\
# HELP ovms_current_graphs Number of graphs currently in-process.
# TYPE ovms_current_graphs gauge
ovms_current_graphs{name="org/tiny"} 3
# HELP ovms_requests_accepted Number of accepted requests which were passed to the graph.
# TYPE ovms_requests_accepted counter
ovms_requests_accepted{api="V3",interface="REST",method="Stream",name="org/tiny"} 42
# HELP ovms_graph_processing_time_us Time spent in the graph.
# TYPE ovms_graph_processing_time_us histogram
ovms_graph_processing_time_us_count{method="Unary",name="org/tiny"} 2
ovms_graph_processing_time_us_sum{method="Unary",name="org/tiny"} 30
ovms_graph_processing_time_us_bucket{method="Unary",name="org/tiny",le="10"} 1
ovms_graph_processing_time_us_bucket{method="Unary",name="org/tiny",le="+Inf"} 2
"""


@dataclass(slots=True)
class Engines:
    """Ports that answer GET /metrics with a body, or with whatever a function writes."""

    asked: int = 0
    servers: list[asyncio.Server] = field(default_factory=list)

    async def add(self, body: str | bytes | None) -> int:
        """The port of another engine; None is one that takes the question and never answers."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.asked += 1
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                if body is None:
                    await reader.read()
                else:
                    data = body.encode() if isinstance(body, str) else body
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
                    await writer.drain()
            writer.close()

        self.servers.append(await asyncio.start_server(answer, "127.0.0.1", 0))
        return int(self.servers[-1].sockets[0].getsockname()[1])

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    made = Engines()
    yield made
    made.close()


@contextlib.asynccontextmanager
async def collecting(ports: Mapping[str, int], **options: Any) -> AsyncIterator[Metrics]:
    """Metrics of an agent with these instances."""

    async def measured() -> Mapping[str, Any]:
        return measures(*({**MEASURED, "id": name} for name in ports))

    instances = [{**INSTANCE, "id": name, "port": port, "pid": 4711} for name, port in ports.items()]
    metrics = Metrics(
        status=lambda: status(*instances),
        measures=measured,
        tally=Tally(),
        connect=lambda port, timeout_sec: Engine(port, timeout_sec=timeout_sec),
        **options,
    )
    try:
        yield metrics
    finally:
        await metrics.close()


async def take(ports: Mapping[str, int], **options: Any) -> str:
    async with collecting(ports, **options) as metrics:
        return (await metrics.answer(""))[0].decode()


def lines(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] == name]


async def test_engines_have_an_instance_each_and_every_family_is_there_once(engines: Engines) -> None:
    text = await take({"chat-numa0": await engines.add(REAL), "chat-numa1": await engines.add(REAL)})
    assert lines(text, "ovms_current_graphs") == [
        'ovms_current_graphs{instance="chat-numa0",name="org/tiny"} 3.0',
        'ovms_current_graphs{instance="chat-numa1",name="org/tiny"} 3.0',
    ]
    assert len(lines(text, "ovms_requests_accepted")) == 2  # under its own name
    assert len(lines(text, "ovms_graph_processing_time_us_bucket")) == 4
    typed = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(set(typed)) == len(typed)
    assert "# TYPE ovms_graph_processing_time_us histogram" in text
    assert lines(text, "ovms_scaler_engine_metrics_up") == [
        'ovms_scaler_engine_metrics_up{instance="chat-numa0"} 1.0',
        'ovms_scaler_engine_metrics_up{instance="chat-numa1"} 1.0',
    ]


@pytest.mark.parametrize(
    ("accept", "kind", "parse"),
    [
        pytest.param("", "text/plain", parse_text, id="nothing said"),
        pytest.param("text/html, */*", "text/plain", parse_text, id="a browser"),
        pytest.param(
            OPENMETRICS,
            "application/openmetrics-text",
            parse_openmetrics,
            id="Prometheus",
        ),
    ],
)
async def test_both_forms_say_the_same(
    engines: Engines, accept: str, kind: str, parse: Callable[[str], Any]
) -> None:
    async with collecting({"chat-numa0": await engines.add(REAL)}) as metrics:
        text, content_type = await metrics.answer(accept)
    assert content_type.split(";")[0] == kind
    found = {sample.name: sample.value for family in parse(text.decode()) for sample in family.samples}
    assert found["ovms_requests_accepted"] == 42
    assert found["ovms_scaler_instance_requests_total"] == 9
    assert found["ovms_scaler_build_info"] == 1
    assert found["ovms_scaler_process_resident_memory_bytes"] > 1 << 20


async def test_who_is_slow_or_away_is_left_out_in_time(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "ENGINE_SEC", 0.05)
    ports = {f"chat-numa{number}": await engines.add(None) for number in range(8)}
    ports |= {"gone": engines.servers[0].sockets[0].getsockname()[1], "good": await engines.add(REAL)}
    engines.servers[0].close()
    async with asyncio.timeout(LIMIT_SEC):
        text = await take(ports)
    assert [line.split('"')[1] for line in lines(text, "ovms_current_graphs")] == ["good"]
    assert lines(text, "ovms_scaler_engine_metrics_up").count(
        'ovms_scaler_engine_metrics_up{instance="gone"} 0.0'
    )
    failed = [
        line for line in lines(text, "ovms_scaler_engine_metrics_failures_total") if line.endswith(" 1.0")
    ]
    assert len(failed) == 9
    assert all('reason="no_answer"' in line for line in failed)


async def test_the_loop_goes_on_while_text_is_made(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health checks run on it."""
    parsing, go_on = threading.Event(), threading.Event()

    def parse(text: str, known: LabelSets) -> tuple[Metric, ...]:
        parsing.set()
        assert go_on.wait(LIMIT_SEC)
        return parse_engine_metrics(text, known)

    monkeypatch.setattr(metrics_module, "parse_engine_metrics", parse)
    async with collecting({"chat-numa0": await engines.add(REAL)}) as metrics:
        taken = asyncio.create_task(metrics.answer(""))
        await asyncio.to_thread(parsing.wait, LIMIT_SEC)
        assert not taken.done()
        go_on.set()
        assert lines((await taken)[0].decode(), "ovms_current_graphs")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("<html>", id="HTML"),
        pytest.param("ovms_a{", id="half a line"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
        pytest.param("ovms_a 1\novms_a 1\n", id="a series twice"),
        pytest.param('ovms_a{b-c="d"} 1\n', id="a bad label"),
        pytest.param('ovms_a{__name__="d"} 1\n', id="a label of Prometheus' own"),
        pytest.param("ovms_a\xe4 1\n", id="a bad name"),
        pytest.param("# TYPE ovms_a info\novms_a 1\n", id="no type"),
        pytest.param(
            "# TYPE ovms_a gauge\novms_a 1\novms_b 1\n# TYPE ovms_a histogram\novms_a_sum 1\n",
            id="two types",
        ),
        pytest.param(f'ovms_a{{b="{"x" * MAX_LINE_CHARACTERS}"}} 1\n', id="a long line"),
        pytest.param('ovms_a{b="\x01"} 1\n', id="control characters"),
    ],
)
async def test_nonsense_is_left_out_and_counted(engines: Engines, body: str | bytes) -> None:
    ports = {"bad": await engines.add(body), "good": await engines.add(REAL)}
    async with collecting(ports) as metrics:
        text = (await metrics.answer(""))[0].decode()
        both = (await metrics.answer(OPENMETRICS))[0].decode()
    assert [line.split('"')[1] for line in lines(text, "ovms_current_graphs")] == ["good"]
    failures = 'ovms_scaler_engine_metrics_failures_total{instance="bad",reason="invalid"}'
    assert f"{failures} 1.0\n" in text
    assert f"{failures} 1.0\n" in both  # of one question
    assert not lines(text, "ovms_a")


async def test_too_much_is_left_out_and_counted(engines: Engines) -> None:
    ports = {
        "one": await engines.add(REAL),
        "two": await engines.add(REAL),
        "huge": await engines.add("x" * (2 << 20)),
    }
    text = await take(ports, max_bytes=len(REAL) + 1)
    assert [line.split('"')[1] for line in lines(text, "ovms_current_graphs")] == ["one"]
    assert 'ovms_scaler_engine_metrics_failures_total{instance="two",reason="too_large"} 1.0\n' in text
    assert 'ovms_scaler_engine_metrics_failures_total{instance="huge",reason="no_answer"} 1.0\n' in text


async def test_no_family_of_an_engine_is_taken_for_ours(engines: Engines) -> None:
    body = f"{REAL}ovms_scaler_problems 7\novms_scaler_new 1\nprocess_cpu_seconds_total 5\nup 0\n"
    text = await take({"chat-numa0": await engines.add(body)})
    assert lines(text, "ovms_scaler_problems") == ["ovms_scaler_problems 0.0"]
    assert not lines(text, "ovms_scaler_new")
    assert not lines(text, "process_cpu_seconds_total")
    assert not lines(text, "up")
    assert lines(text, "ovms_current_graphs")


async def test_only_engines_that_run_are_asked(engines: Engines) -> None:
    port = await engines.add(REAL)
    stopped = [
        {**INSTANCE, "id": "stopped", "port": port, "pid": None},
        {**INSTANCE, "id": "old", "port": None, "pid": 1},
    ]

    async def measured() -> Mapping[str, Any]:
        return measures()

    metrics = Metrics(
        status=lambda: status(*stopped),
        measures=measured,
        tally=Tally(),
        connect=lambda port, timeout_sec: Engine(port, timeout_sec=timeout_sec),
    )
    text = (await metrics.answer(""))[0].decode()
    await metrics.close()
    assert engines.asked == 0
    assert not lines(text, "ovms_scaler_engine_metrics_up")


async def test_a_crowd_asks_engines_once(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting({"chat-numa0": await engines.add(REAL)}) as metrics:
        texts = await asyncio.gather(*(metrics.answer("") for _ in range(50)))
        assert len(set(texts)) == 1
        assert engines.asked == 1
        await metrics.answer("")
        assert engines.asked == 1
        monkeypatch.setattr(metrics_module, "FRESH_SEC", 0.0)
        await metrics.answer("")
        assert engines.asked == 2


async def test_engines_are_asked_once_for_both_forms(engines: Engines) -> None:
    async with collecting({"chat-numa0": await engines.add(REAL)}) as metrics:
        answers = await asyncio.gather(*(metrics.answer(accept) for accept in ("", OPENMETRICS) * 5))
        assert len(set(answers)) == 2
        for accept in ("", OPENMETRICS):
            await metrics.answer(accept)
        assert engines.asked == 1


async def test_who_goes_away_spoils_it_for_nobody(engines: Engines) -> None:
    async with collecting({"chat-numa0": await engines.add(REAL)}) as metrics:
        first, second = (asyncio.create_task(metrics.answer("")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second)[0]


def test_a_label_of_the_engine_that_is_named_as_ours_is_renamed() -> None:
    families = parse_engine_metrics('ovms_a{instance="x"} 1\n')
    (merged,) = merge_engine_metrics({"chat-numa0": families})
    assert merged.samples[0].labels == {"exported_instance": "x", "instance": "chat-numa0"}


def test_engines_share_the_labels_that_are_alike_and_none_is_named_as_another() -> None:
    known: LabelSets = {}
    texts = {
        "a": 'ovms_a{name="x"} 1\novms_b{name="x"} 2\n',
        "b": 'ovms_a{name="x"} 3\novms_b{name="y"} 4\n',
    }
    engines = {instance: parse_engine_metrics(text, known) for instance, text in texts.items()}
    samples = [sample for families in engines.values() for family in families for sample in family.samples]
    assert len({id(sample.labels) for sample in samples}) == len(known) == 2
    assert [
        (sample.name, sample.labels, sample.value)
        for family in merge_engine_metrics(engines)
        for sample in family.samples
    ] == [
        ("ovms_a", {"name": "x", "instance": "a"}, 1),
        ("ovms_a", {"name": "x", "instance": "b"}, 3),
        ("ovms_b", {"name": "x", "instance": "a"}, 2),
        ("ovms_b", {"name": "y", "instance": "b"}, 4),
    ]


def test_engines_that_differ_in_a_type_do_not_share_a_family() -> None:
    gauge, histogram = (
        parse_engine_metrics(f"# TYPE ovms_a {kind}\n{text}\n")
        for kind, text in (("gauge", "ovms_a 1"), ("histogram", 'ovms_a_bucket{le="+Inf"} 1'))
    )
    (merged,) = merge_engine_metrics({"a": gauge, "b": histogram, "c": gauge})
    assert [sample.labels["instance"] for sample in merged.samples] == ["a", "c"]


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment\n", "other 1\n", "ovms_scaler_problems 1\n"])
def test_nothing_of_ovms(text: str) -> None:
    assert parse_engine_metrics(text) == ()


def test_an_error_is_short() -> None:
    with pytest.raises(InputError) as refused:
        parse_engine_metrics("x" * MAX_LINE_CHARACTERS)
    assert len(str(refused.value)) < 300
