# SPDX-License-Identifier: Apache-2.0
"""The engines' own metrics as one text has them: each series with its ``instance``, each family once."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from ovms_scaler.errors import InputError

# All families of OVMS begin so (src/metrics/metric_config.hpp); ours never collide with them.
OVMS = "ovms_"
OURS = "ovms_scaler_"
# The parser's work grows with the square of a line.
MAX_LINE_CHARACTERS = 4096
# By what they are.
LabelSets = dict[tuple[tuple[str, str], ...], dict[str, str]]
# Older versions of the library have no types.
_parse: Callable[[str], Iterable[Metric]] = text_string_to_metric_families
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_KINDS = ("counter", "gauge", "histogram", "summary", "unknown")
_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*", re.ASCII)
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# OVMS's counters are named without _total, as no counter of OpenMetrics is: names are kept, the type is not.
_COUNTER = re.compile(r"^(# TYPE \S+(?<!_total)) counter[ \t\r]*$", re.M)


def parse_engine_metrics(text: str, known: LabelSets | None = None) -> tuple[Metric, ...]:
    """What an engine answered to ``GET /metrics``; families that are not OVMS's are left out.

    Engines that are given the same ``known`` share the labels that are alike: most of what there is.
    Raises InputError for what is no such text, or what Prometheus would not take: the parser is laxer.
    """
    longest = max(map(len, text.split("\n")))
    if longest > MAX_LINE_CHARACTERS:
        raise InputError(f"a line has {longest} characters, more than {MAX_LINE_CHARACTERS}")
    if _CONTROL.search(text) is not None:
        raise InputError("it has control characters")
    try:
        families = list(_parse(_COUNTER.sub(r"\1 untyped", text)))
    except (ValueError, IndexError) as error:
        raise InputError(f"it is not in Prometheus' text format: {str(error)[:200]!a}") from error
    known = {} if known is None else known
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    found: dict[str, Metric] = {}
    for family in families:
        if not family.name.startswith(OVMS) or family.name.startswith(OURS):
            continue
        kept = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        if family.type not in _KINDS or kept.type != family.type or _NAME.fullmatch(family.name) is None:
            raise InputError(f"family {family.name[:200]!a} is none, or has two types")
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            if key in seen or not all(map(_LABEL.fullmatch, sample.labels)):
                raise InputError(f"a series of {family.name[:200]!a} is there twice, or has a bad label")
            seen.add(key)
            labels = known.setdefault(key[1], sample.labels)
            kept.samples.append(Sample(sys.intern(sample.name), labels, sample.value))
    return tuple(found.values())


def merge_engine_metrics(engines: Mapping[str, tuple[Metric, ...]]) -> Iterator[Metric]:
    """The families of all engines, given by instance; one of another type than the first is left out.

    Each is made when it is asked for: all at once would be the engines' metrics in memory a second time.
    """
    named: dict[str, list[tuple[str, Metric]]] = {}
    for instance, families in sorted(engines.items()):
        for family in families:
            named.setdefault(family.name, []).append((instance, family))
    for name in sorted(named):
        (_, first), *_ = named[name]
        whole = Metric(name, first.documentation, first.type)
        for instance, family in named[name]:
            if family.type == first.type:
                whole.samples += [_label(sample, instance) for sample in family.samples]
        yield whole


def _label(sample: Sample, instance: str) -> Sample:
    """The sample as one of ``instance``; a label of that name is renamed as Prometheus does."""
    labels = {
        ("exported_instance" if name == "instance" else name): text for name, text in sample.labels.items()
    }
    return Sample(sample.name, {**labels, "instance": instance}, sample.value)
