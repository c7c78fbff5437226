# SPDX-License-Identifier: Apache-2.0
"""Answers of engines to GET /metrics: whatever they are, what is made of them is taken by Prometheus."""

import contextlib
import re
from collections.abc import Callable, Iterator

from hypothesis import strategies as st
from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics

from fuzz.driver import ODD, Target, damaged
from ovms_scaler.daemon.engine_metrics import OURS, OVMS, parse_engine_metrics
from ovms_scaler.daemon.metrics import render_metrics
from ovms_scaler.errors import InputError

LONGEST_MESSAGE = 1000
_LABEL = r'[A-Za-z_][A-Za-z0-9_]*="(?:[^"\\\n]|\\[\\n"])*"'
_NUMBER = r"(?:-?[0-9.]+(?:e[+-]?[0-9]+)?|[+-]Inf|NaN)"
_LINE = re.compile(
    rf"(?P<series>[A-Za-z_:][A-Za-z0-9_:]*(?:\{{{_LABEL}(?:,{_LABEL})*\}})?) {_NUMBER}", re.ASCII
)
WHOLE = (
    b"# HELP ovms_current_graphs Number of graphs currently in-process.\n# TYPE ovms_current_graphs gauge\n"
    b'ovms_current_graphs{name="org/tiny"} 3\n',
    b"# TYPE ovms_requests_accepted counter\n"
    b'ovms_requests_accepted{api="V3",interface="REST",method="Stream",name="a\\"b\\\\c\\n"} 42 1785117\n',
    b'# TYPE ovms_time_us histogram\novms_time_us_bucket{le="10"} 1\novms_time_us_bucket{le="+Inf"} 2\n'
    b"ovms_time_us_count 2\novms_time_us_sum 30\n",
)


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    def check(body: bytes) -> None:
        try:
            families = parse_engine_metrics(body.decode(errors="replace"))
        except InputError as error:
            assert_plain(str(error))
            return
        for encode in (exposition.generate_latest, openmetrics.generate_latest):
            assert_taken(
                render_metrics(encode, (), {"chat-numa0": families, "chat-numa1": families}).decode()
            )

    yield check


def assert_plain(message: str) -> None:
    assert len(message) < LONGEST_MESSAGE
    assert message.isprintable()


def assert_taken(text: str) -> None:
    """Every line is one by the format's grammar, every series is there once, and none is taken for ours."""
    seen: set[str] = set()
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith(("# ", f"{OURS}process_")):
            continue
        found = _LINE.fullmatch(line)
        assert found is not None, line
        assert found["series"] not in seen, line
        seen.add(found["series"])
        assert line.startswith(OVMS)
        assert not line.startswith(OURS)
        assert line.count('instance="chat-numa') >= 1


NAMES = st.sampled_from(
    ("ovms_a", "ovms_a_total", "ovms_a_bucket", "ovms_a_info", "ovms_scaler_problems", "up")
)
KINDS = st.sampled_from(("counter", "gauge", "histogram", "summary", "untyped", "info", "stateset", "x", ""))
LABELS = st.lists(
    st.builds(
        '{}="{}"'.format,
        st.sampled_from(("name", "instance", "le", "__name__", "a-b", "")),
        st.sampled_from(
            ("", "org/tiny", '\\"', "\\\\", "\\n", "\\", "\x00", "\u2028", "{", "}", ",", "+Inf")
        ),
    ),
    max_size=3,
).map(lambda labels: "{" + ",".join(labels) + "}" if labels else "")
VALUES = st.sampled_from(("1", "-1e400", "NaN", "+Inf", "1_0", "0x10", "", "1 2", "1 2 3", "\t7", "one"))
LINES = st.one_of(
    st.builds("{}{} {}".format, NAMES, LABELS, VALUES),
    st.builds("# TYPE {} {}".format, NAMES, KINDS),
    st.builds("# HELP {} {}".format, NAMES, st.sampled_from(("", "a\\nb", "\\", "x " * 40))),
    st.sampled_from(("", "#", "# TYPE", "# HELP", "# EOF", "}{", " ", "\r")),
)


def open_engine_metrics() -> Target:
    return Target(
        name="engine_metrics",
        about="answers to GET /metrics",
        inputs=st.one_of(
            st.lists(LINES, max_size=8).map(lambda lines: "\n".join(lines).encode()), damaged(WHOLE), ODD
        ),
        open=_open,
    )
