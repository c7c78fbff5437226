# SPDX-License-Identifier: Apache-2.0
"""The report as a page."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from bench_lab import Front, load, outcome, run

from ovms_scaler.bench.comparing import compare
from ovms_scaler.bench.dataset import Conversation, Sample
from ovms_scaler.bench.document import Context, make_document
from ovms_scaler.bench.outcome import Failure, Kind
from ovms_scaler.bench.plots import format_tick, log_ticks, round_ticks
from ovms_scaler.bench.report import render_report
from ovms_scaler.bench.resources import Samples, collect
from ovms_scaler.bench.running import Findings
from ovms_scaler.bench.scaling import Measured, draw_curve
from ovms_scaler.bench.session import Measurement
from ovms_scaler.bench.statistics import Interval
from ovms_scaler.bench.summary import list_notes, summarise


def measurement(label: str = "", *, failed: int = 0, message: str = "ended") -> Measurement:
    failure = Failure(kind=Kind.cut, message=message)
    good = [outcome(number, end_sec=3.0 + number / 10) for number in range(20)]
    bad = [outcome(100 + number, failure=failure) for number in range(failed)]
    done = run(*good, *bad)
    found = summarise(done)
    return Measurement(
        label=label,
        group=label,
        instances=("chat-numa0",),
        run=done,
        summary=found,
        resources=collect(Samples(trouble="nobody was asked"), began_at=0.0, duration_sec=1.0),
        notes=tuple(list_notes(found)),
    )


def document(findings: Findings, **changes: Any) -> dict[str, Any]:
    machine = dict.fromkeys(
        ("hostname", "cpu_model", "cpus", "system", "kernel", "governor", "smt", "transparent_hugepage")
    )
    usual: dict[str, Any] = {
        "version": "0.1.0",
        "at": 1000.0,
        "command": ("ovms-scalerctl", "bench", "--html", "my report.html"),
        "endpoint": Front(port=8000).endpoint(api_key="secret"),
        "load": load(),
        "sample": None,
        "engine": None,
        "machine": {**machine, "numa_balancing": None, "hostname": "server"},
        "nodes": None,
        "gpus": None,
        "config_sha256": None,
        "generation": None,
        "is_local": True,
    }
    return make_document(findings, Context(**usual | changes))


def figures(page: str) -> list[ET.Element]:
    return [ET.fromstring(one) for one in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_a_page_needs_nothing_from_elsewhere() -> None:
    page = render_report(document(Findings(measurements=[measurement(failed=3)])))
    assert not re.findall(r"(?:src|href|url|@import|<script|<link|<iframe)\s*[=(]", page)
    assert "secret" not in page
    assert "ovms-scalerctl bench --html &#39;my report.html&#39;" in page


def test_what_stands_in_a_url_before_the_host_is_not_repeated() -> None:
    command = (
        "ovms-scalerctl",
        "bench",
        "--url=http://me:se@cret@server:8000/v3",
        "--url",
        "https://key@x/a@b",
    )
    found = document(Findings(measurements=[measurement()]), command=command)
    shown = "ovms-scalerctl bench --url=http://...@server:8000/v3 --url https://...@x/a@b"
    assert found["command_line"] == shown


def test_a_run_has_its_plots_and_its_failures() -> None:
    page = render_report(document(Findings(measurements=[measurement(failed=3)])))
    assert [one.get("aria-label") for one in figures(page)] == [
        "Time to first token",
        "Time per output token",
        "Inter-token latency",
        "End-to-end latency",
        "Output throughput over time",
        "Requests in flight over time",
        "Failed requests over time",
    ]
    assert "cut in mid-stream" in page
    assert "NOT MEASURED: what a network between clients and the server adds" in page


def test_without_failures_there_is_no_plot_of_them() -> None:
    page = render_report(document(Findings(measurements=[measurement()])))
    assert "Failed requests over time" not in page


def test_what_comes_from_outside_is_text() -> None:
    found = measurement("<b>", failed=1, message="<script>alert(1)</script>")
    page = render_report(document(Findings(measurements=[found, measurement("two")])))
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_what_steers_a_terminal_or_turns_text_around_is_seen() -> None:
    hostile = "\x1b[31mred\u202eback\u200f\ud800\x00"
    found = measurement(hostile, failed=1, message=hostile)
    other = measurement("two", failed=1, message=hostile)
    names = {"A": hostile, "B": "b"}
    summaries = [summarise(run(outcome(generated_tokens=tokens))) for tokens in (50, 60)]
    verdicts = compare([summaries[0]] * 3, [summaries[1]] * 3)
    findings = Findings(measurements=[found, other], verdicts=verdicts, names=names, trouble=hostile)
    page = render_report(document(findings, command=("bench", "--html", hostile), engine=hostile))
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page
    )
    assert "\\x1b[31mred\\u202eback\\u200f\\ud800\\x00" in page
    # A name that is not hostile is as it was.
    assert "b is better" in page


def test_a_dataset_of_which_little_can_be_used_is_told() -> None:
    asked = Conversation(prompt="What is it?", output_len=5)
    sample = Sample(conversations=(asked,) * 150, usable=1, total=7, refused={"too short": 6})
    found = document(Findings(measurements=[measurement()]), sample=sample)
    assert (
        "FEW CONVERSATIONS: 1 of 7 in the dataset can be used, for 150 requests; so each was asked up to "
        "150 times, behind other words each time."
    ) in found["notes"]
    enough = Sample(conversations=(asked,) * 150, usable=150, total=150, refused={})
    assert not [
        note
        for note in document(Findings(measurements=[measurement()]), sample=enough)["notes"]
        if "CONVERSATIONS" in note
    ]


def test_a_file_name_that_is_no_text_is_no_trouble() -> None:
    found = document(Findings(measurements=[measurement()]), command=("bench", "--html", "a\udcff.html"))
    assert "a\\udcff.html" in render_report(found).encode().decode()


def test_nothing_but_failures_is_a_page_too() -> None:
    done = run(outcome(failure=Failure(kind=Kind.refused)))
    found = measurement()
    empty = Measurement(
        label="",
        group="",
        instances=None,
        run=done,
        summary=summarise(done),
        resources=found.resources,
        notes=(),
    )
    page = render_report(document(Findings(measurements=[empty])))
    assert "connection refused" in page
    assert "not measured" in page


def scaled(rounds: int) -> Findings:
    measured = [
        Measured(
            instances=count,
            names=("a",),
            output_tokens_per_sec=tuple(rate + number for number in range(rounds)),
            requests_per_sec=(1.0,),
        )
        for count, rate in ((1, 100.0), (2, 190.0), (4, 200.0))
    ]
    return Findings(
        measurements=[measurement("1 instance"), measurement("2 instances")],
        curve=draw_curve(measured, request_rate=None),
        whole_ratio=Interval(mean=1.5, low=1.4, high=1.6) if rounds > 1 else None,
    )


def test_a_curve_of_one_round_has_no_knee() -> None:
    page = render_report(document(scaled(1)))
    (curve, *_) = figures(page)
    assert not any(one.text.startswith("knee") for one in curve.iter() if one.text)
    assert "NO KNEE IS TOLD, as one round cannot tell it from chance" in page.partition("</header>")[0]
    assert "The knee is at" not in page
    assert page.count("one round</td>") == 5


def test_a_curve_with_its_knee() -> None:
    page = render_report(document(scaled(3)))
    (curve, *_) = figures(page)
    assert curve.get("aria-label") == "Output throughput by number of instances"
    assert any(one.text == "knee at 2" for one in curve.iter() if one.text)
    assert "4 instances together do 1.50 times what one unbound instance does" in page
    assert "; 95 % interval 1.40 to 1.60)." in page


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Interval(mean=1.1, low=None, high=None), "; one round cannot tell whether that is chance."),
        (
            Interval(mean=1.1, low=0.9, high=1.3),
            "; no difference beyond the noise, 95 % interval 0.90 to 1.30)",
        ),
    ],
)
def test_what_is_chance_beside_an_unbound_instance_is_told(ratio: Interval, said: str) -> None:
    findings = scaled(3)
    findings.whole_ratio = ratio
    assert said in document(findings)["whole_text"]


def test_what_the_load_of_a_curve_was_is_told() -> None:
    each = document(scaled(3), load=load(num_prompts=200, scales_clients=True, scales_prompts=True))
    assert each["load_text"] == (
        "The load was 4 clients and 200 requests for each instance in rotation: the same for each, and more "
        "for more of them. With --max-concurrency it is one and the same for all numbers of instances."
    )
    some = document(scaled(3), load=load(num_prompts=200, scales_clients=True))
    assert some["load_text"].startswith(
        "The load was 4 clients for each instance in rotation, and 200 requests"
    )
    same = document(scaled(3), load=load(num_prompts=200))
    assert same["load_text"] == (
        "The load was one and the same for all numbers of instances: closed loop of 4 clients, 200 requests."
    )
    assert document(Findings(measurements=[measurement()]))["load_text"] == ""
    assert each["load_text"] in render_report(each)


def test_a_comparison_says_what_it_found() -> None:
    summaries = [summarise(run(outcome(generated_tokens=tokens))) for tokens in (50, 60)]
    findings = Findings(
        measurements=[measurement("A"), measurement("B")],
        verdicts=compare([summaries[0]] * 3, [summaries[1]] * 3),
        names={"A": "a.toml", "B": "b.toml"},
    )
    page = render_report(document(findings))
    assert "Comparison of two configurations" in page
    assert "b.toml is better" in page
    assert "99.3 % interval" in page


def test_what_could_not_be_put_back_is_at_the_top() -> None:
    findings = Findings(measurements=[measurement()], trouble="it ended", left=["chat-numa1: no answer"])
    head = render_report(document(findings)).partition("</header>")[0]
    assert "ENDED EARLY: it ended" in head
    assert "NOT PUT BACK: chat-numa1: no answer" in head


def test_a_note_of_many_measurements_comes_once() -> None:
    found = document(Findings(measurements=[measurement(f"run {number}") for number in range(3)]))
    (note,) = found["notes"]
    assert note.startswith("FEW REQUESTS: ")
    assert note.endswith("(in all 3 measurements)")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 10.0, [0, 2, 4, 6, 8, 10]),
        (0.0, 0.93, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 1234.0, [0, 250, 500, 750, 1000, 1250]),
        (0.0, 0.0, [0, 2e-13]),
        (210.0, 268.0, [200, 220, 240, 260, 280]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    found = round_ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    if high:
        assert found == pytest.approx(ticks)


def test_ticks_of_a_logarithmic_axis() -> None:
    assert log_ticks(3.0, 900.0) == [2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert [format_tick(value) for value in (0.0, 0.25, 1000.0, 0.0005)] == ["0", "0.25", "1,000", "5e-04"]
