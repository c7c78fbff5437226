# SPDX-License-Identifier: Apache-2.0
"""The verb that measures."""

import math
from pathlib import Path
from typing import Any

import click

from ovms_scaler.ctl import output
from ovms_scaler.ctl.exits import Exit
from ovms_scaler.ctl.options import PROGRAM, json_option, socket_option

_FILE = click.Path(path_type=Path, dir_okay=False)
_WORKLOADS = ("sharegpt", "short")


class _Number(click.FloatRange):
    """What is no number is within no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        converted = super().convert(value, param, ctx)
        if math.isnan(converted):
            self.fail(f"{value!r} is not a number", param, ctx)
        return converted


@click.command()
@click.option(
    "--num-prompts",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Requests to measure. [default: 200, with --scale for each instance]",
)
@click.option(
    "--request-rate",
    type=_Number(min=0, min_open=True),
    metavar="R",
    help="Requests per second, by a Poisson process; inf for all at once.",
)
@click.option(
    "--max-concurrency",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="At most so many at once; alone, so many clients that wait for answers. "
    "[default: 32, with --scale for each instance]",
)
@click.option(
    "--dataset-path",
    type=_FILE,
    metavar="FILE",
    help="Conversations in ShareGPT's JSON, in place of synthetic prompts.",
)
@click.option(
    "--workload",
    type=click.Choice(_WORKLOADS),
    default="short",
    show_default=True,
    help="Lengths: short is 14-40 words in, 256 tokens out; sharegpt ~220, ~183.",
)
@click.option(
    "--input-len", metavar="LEN", help="Words of a prompt: 30, 14-40, or ~220 for a long tail around it."
)
@click.option("--output-len", metavar="LEN", help="Tokens of an answer, likewise.")
@click.option(
    "--shared-prefix",
    type=click.IntRange(0, 100_000),
    default=0,
    metavar="N",
    help="Words with which all prompts begin, for prefix caches.",
)
@click.option(
    "--ignore-eos/--no-ignore-eos",
    default=None,
    help="Whether answers have exactly their length. [default: unless from a dataset]",
)
@click.option(
    "--temperature",
    type=_Number(0, 2),
    default=0.0,
    show_default=True,
    metavar="T",
    help="How much chance there is in the answers.",
)
@click.option(
    "--num-warmups",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Requests before it, not counted. [default: 2 for each instance]",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="The same lengths and times for the same seed.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Processes of the client. [default: by the CPUs, 2 to 8]",
)
@click.option(
    "--timeout",
    "timeout_sec",
    type=_Number(min=0.1),
    default=3600.0,
    show_default=True,
    metavar="SEC",
    help="When a request has failed.",
)
@click.option(
    "--scale",
    "scale_text",
    metavar="N,N,...",
    help="Measure with so many instances each; the others are drained meanwhile. By default each "
    "has 32 clients; with --max-concurrency or --request-rate the load is one and the same.",
)
@click.option(
    "--against-whole", is_flag=True, help="With --scale up to all: then one unbound instance, too."
)
@click.option(
    "--compare",
    nargs=2,
    type=_FILE,
    metavar="A B",
    help="Measure two configurations in turn, and say which is better.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Measure so often. [default: 4 with --compare, 3 with --scale, else 1]",
)
@click.option("--allow-outage", is_flag=True, help="Also when nobody serves for a while because of it.")
@click.option(
    "--url", default="", metavar="URL", help="Another front than this machine's, as http://server:8000/v3."
)
@click.option("--model", default="", metavar="NAME", help="Which model, if there are several.")
@click.option("--api-key-file", type=_FILE, metavar="FILE", help="API key, if the front wants one.")
@click.option("--cacert", type=_FILE, metavar="FILE", help="Certificates to trust, with TLS.")
@click.option("--insecure", is_flag=True, help="Trust any certificate.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write the report with plots to this file, too.")
@json_option
@socket_option
def bench(*, html: Path | None, as_json: bool, **options: Any) -> Exit:
    """Measure the front under a load of its own.

    Asks for streamed chat completions, as clients would. Reports throughput, time to
    the first token, time per token and latencies as vLLM's benchmark does, what the
    machine did meanwhile, and every failed request. Times count from when a request
    was to be sent. Prompts are new in each run, so that no prefix cache helps. Ends
    with 1 if requests failed.

    Clients get the same engines meanwhile. --scale drains instances, and takes them
    into use again whatever happens. --compare and --against-whole change the
    configuration for a while and put it back; they need --allow-outage.

    \b
    Example:
      ovms-scalerctl bench --html report.html
      ovms-scalerctl bench --request-rate 20 --num-prompts 6000 \\
          --dataset-path ShareGPT_V3_unfiltered_cleaned_split.json
      ovms-scalerctl bench --scale 1,2,4,6 --html scaling.html
      ovms-scalerctl bench --scale 1,2,4,6 --max-concurrency 256 \\
          --num-prompts 2000
      ovms-scalerctl bench --compare bind.toml preferred.toml --allow-outage
    """
    from ovms_scaler.bench.rotation import StoppedError
    from ovms_scaler.ctl.bench_page import try_page, write_page
    from ovms_scaler.ctl.bench_request import make_request
    from ovms_scaler.ctl.benching import bench as measure

    request = make_request(**options)
    if html is not None:
        try_page(html)
    try:
        document = measure(request)
    except StoppedError as error:
        output.complain(f"{PROGRAM}: {error}")
        return Exit.interrupted
    # Before it is shown: the terminal may be what went away.
    trouble = write_page(html, document) if html is not None else ""
    if as_json:
        output.show_json(document)
    else:
        from ovms_scaler.ctl.bench_view import show_report

        show_report(document)
    if html is not None:
        output.complain(trouble or f"report: {html}")
    found = _judge(document)
    return Exit.bad_news if trouble and found is Exit.good else found


def _judge(document: Any) -> Exit:
    if document["is_interrupted"]:
        return Exit.interrupted
    has_failed = any(one["summary"]["failed_requests"] for one in document["measurements"])
    return Exit.bad_news if has_failed or document["trouble"] or document["left"] else Exit.good


VERBS = (bench,)
