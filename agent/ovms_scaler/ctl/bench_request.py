# SPDX-License-Identifier: Apache-2.0
"""What bench is asked for, from its options."""

import sys
from pathlib import Path
from typing import Any

import click

from ovms_scaler.bench.lengths import parse_lengths
from ovms_scaler.bench.load import Load
from ovms_scaler.bench.scaling import ENOUGH_ROUNDS, parse_scale
from ovms_scaler.ctl.bench_place import Wish
from ovms_scaler.ctl.benching import Request
from ovms_scaler.ctl.options import PROGRAM
from ovms_scaler.errors import InputError

# The loads of those who published figures: 14 to 40 tokens in and 256 out, and what ShareGPT is on average.
_WORKLOADS = {"short": ("14-40", "256"), "sharegpt": ("~220", "~183")}
_PROMPTS, _CONCURRENCY = 200, 32
_COMPARE_ROUNDS = 4


def make_request(
    *,
    socket: Path,
    scale_text: str | None,
    compare: tuple[Path, Path] | None,
    against_whole: bool,
    rounds: int | None,
    allow_outage: bool,
    cacert: Path | None,
    insecure: bool,
    **options: Any,
) -> Request:
    """Raises click.UsageError for what is no value, or does not go together."""
    _check_together(
        scale_text, compare, against_whole=against_whole, allow_outage=allow_outage, url=options["url"]
    )
    return Request(
        socket=socket,
        wish=Wish(
            url=options["url"],
            model=options["model"],
            api_key_file=options["api_key_file"],
            ca_file=cacert,
            is_insecure=insecure,
            timeout_sec=options["timeout_sec"],
        ),
        load=_make_load(**options, is_scaled=bool(scale_text)),
        workers=options["workers"],
        num_warmups=options["num_warmups"],
        scale=_checked("--scale", scale_text, parse_scale) if scale_text else (),
        compare=compare or None,
        against_whole=against_whole,
        rounds=rounds or (_COMPARE_ROUNDS if compare else ENOUGH_ROUNDS if scale_text else 1),
        command=(PROGRAM, *sys.argv[1:]),
    )


def _check_together(
    scale_text: str | None,
    compare: tuple[Path, Path] | None,
    *,
    against_whole: bool,
    allow_outage: bool,
    url: str,
) -> None:
    """Raises click.UsageError for what does not go together."""
    if (compare or against_whole) and not allow_outage:
        flag = "--compare" if compare else "--against-whole"
        raise click.UsageError(
            f"{flag} changes the configuration, and nobody serves for a while: give --allow-outage too"
        )
    if compare and (scale_text or against_whole):
        raise click.UsageError("--compare and --scale are measured one after the other, not together")
    if against_whole and not scale_text:
        raise click.UsageError("--against-whole goes with --scale")
    if url and (compare or scale_text):
        raise click.UsageError("--scale and --compare direct the agent of this machine: not with --url")


def _make_load(
    *,
    num_prompts: int | None,
    request_rate: float | None,
    max_concurrency: int | None,
    dataset_path: Path | None,
    workload: str,
    input_len: str | None,
    output_len: str | None,
    ignore_eos: bool | None,
    is_scaled: bool,
    **options: Any,
) -> Load:
    if dataset_path is not None and input_len:
        raise click.UsageError("--input-len is of synthetic prompts: not with --dataset-path")
    scales_clients = is_scaled and request_rate is None and max_concurrency is None
    if request_rate is None and max_concurrency is None:
        max_concurrency = _CONCURRENCY
    usual_input, usual_output = _WORKLOADS[workload]
    answers = output_len or (None if dataset_path is not None else usual_output)
    return Load(
        num_prompts=num_prompts or _PROMPTS,
        scales_clients=scales_clients,
        scales_prompts=scales_clients and num_prompts is None,
        request_rate=request_rate,
        max_concurrency=max_concurrency,
        seed=options["seed"],
        input_len=_checked("--input-len", input_len or usual_input, parse_lengths),
        output_len=_checked("--output-len", answers, parse_lengths) if answers else None,
        dataset_path=str(dataset_path or ""),
        shared_prefix=options["shared_prefix"],
        temperature=options["temperature"],
        ignore_eos=dataset_path is None if ignore_eos is None else ignore_eos,
    )


def _checked(option: str, text: str, parse: Any) -> Any:
    try:
        return parse(text)
    except InputError as error:
        raise click.UsageError(f"{option}: {error}") from error
