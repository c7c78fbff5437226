# SPDX-License-Identifier: Apache-2.0
"""How much was in use between two looks; what is unknown stays so."""

import pytest

from ovms_scaler.core.drm_use import add_clients, parse_client
from ovms_scaler.core.use import (
    CardsUse,
    CardUse,
    HostUse,
    InstanceUse,
    NodeUse,
    busy_share,
    choose_span,
    cpu_cores,
    cpu_share,
    used_bytes,
)

CARD = "0000:03:00.0"
# As both drivers print it (i915_drm_client.c, xe_drm_client.c), but for what is not read.
I915 = """\
pos:	0
flags:	0100002
drm-driver:	i915
drm-client-id:	{client}
drm-pdev:	0000:03:00.0
drm-total-system0:	192 KiB
drm-resident-system0:	192 KiB
drm-total-local0:	4 MiB
drm-resident-local0:	2 MiB
drm-resident-stolen-local0:	64 KiB
drm-engine-render:	{render} ns
drm-engine-copy:	0 ns
drm-engine-video:	1000000000 ns
drm-engine-capacity-video:	2
"""
XE = """\
drm-driver:	xe
drm-client-id:	3
drm-pdev:	0000:03:00.0
drm-resident-system:	0
drm-total-vram0:	23992 KiB
drm-resident-vram0:	23992 KiB
drm-resident-vram1:	8 KiB
drm-cycles-rcs:	28257900
drm-total-cycles-rcs:	7655183225
drm-cycles-ccs:	{ccs}
drm-total-cycles-ccs:	{passed}
drm-engine-capacity-ccs:	4
"""


def host(at_sec: float, cpu_sec: float | None = None, **nodes: tuple[int, int]) -> HostUse:
    return HostUse(
        at_sec=at_sec,
        instances={"a": InstanceUse(cpu_sec=cpu_sec)},
        nodes=tuple(NodeUse(id=int(name[1:]), busy=own[0], total=own[1]) for name, own in nodes.items()),
    )


def test_looks_are_compared_over_the_last_seconds() -> None:
    looks = [host(float(at_sec)) for at_sec in range(0, 30, 2)]
    span = choose_span(looks)
    assert span is not None
    assert [one.at_sec for one in span] == [18.0, 28.0]


def test_one_who_asks_seldom_gets_what_was_since_the_time_before() -> None:
    assert choose_span([host(0.0), host(15.0), host(45.0)]) == (host(15.0), host(45.0))
    assert choose_span([host(0.0), host(61.0)]) is None
    assert choose_span([host(1.0)]) is None
    assert choose_span([host(1.0), host(1.0)]) is None
    assert choose_span([]) is None


def test_cores_are_cpu_time_over_time() -> None:
    assert cpu_cores((host(10.0, 100.0), host(12.0, 163.0)), "a") == pytest.approx(31.5)
    assert cpu_cores((host(10.0, 100.0), host(12.0, 100.0)), "a") == 0


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        pytest.param(100.0, 1.0, "a", id="started anew"),
        pytest.param(None, 1.0, "a", id="not known before"),
        pytest.param(1.0, None, "a", id="not known now"),
        pytest.param(1.0, 2.0, "b", id="another one"),
    ],
)
def test_cores_that_are_not_known(before: float | None, after: float | None, name: str) -> None:
    assert cpu_cores((host(0.0, before), host(1.0, after)), name) is None


def test_share_of_a_node() -> None:
    span = (host(0.0, n0=(100, 400), n1=(0, 0)), host(1.0, n0=(175, 500), n1=(0, 0)))
    assert cpu_share(span, 0) == 0.75
    assert cpu_share(span, 1) is None  # without CPUs no time passes
    assert cpu_share(span, 2) is None
    assert cpu_share(None, 0) is None


def test_iowait_may_go_back() -> None:
    """proc_stat(5) says so; a share is one all the same."""
    assert cpu_share((host(0.0, n0=(100, 200)), host(1.0, n0=(99, 300))), 0) == 0


def cards(at_sec: float, card: CardUse) -> CardsUse:
    return CardsUse(at_sec=at_sec, cards={CARD: card})


def shared(before: CardUse, after: CardUse, *, span_sec: float = 2.0) -> float | None:
    span = (cards(0.0, before), cards(span_sec, after))
    return busy_share(span, span[1], CARD)


def test_a_card_is_in_use_while_its_busiest_part_is_awake() -> None:
    before, after = CardUse(idle_sec=(10.0, 20.0)), CardUse(idle_sec=(10.5, 22.0))
    assert shared(before, after) == 0.75
    assert shared(before, CardUse(idle_sec=(12.1, 22.1))) == 0  # never less


def test_a_card_that_sleeps_is_not_in_use() -> None:
    asleep = cards(1.0, CardUse(is_asleep=True))
    assert busy_share(None, asleep, CARD) == 0
    assert shared(CardUse(is_asleep=True), CardUse(idle_sec=(1.0,))) is None


def test_a_card_that_does_not_tell() -> None:
    assert shared(CardUse(), CardUse()) is None
    assert shared(CardUse(idle_sec=(1.0,)), CardUse(idle_sec=(1.0, 2.0))) is None
    assert busy_share(None, None, CARD) is None
    assert busy_share(None, cards(1.0, CardUse(idle_sec=(1.0,))), CARD) is None


def clients(*texts: str, at_sec: float) -> CardUse:
    found = [parse_client(text, at_sec=at_sec) for text in texts]
    return add_clients([one for one in found if one is not None])[CARD]


def test_what_i915_tells_of_a_process() -> None:
    before = clients(I915.format(client=7, render=0), at_sec=0.0)
    after = clients(I915.format(client=7, render=1_500_000_000), at_sec=2.0)
    assert after.memory_bytes == 2 << 20
    assert shared(before, after) == 0.75
    assert shared(after, before, span_sec=-2.0) is None


def test_what_xe_tells_of_a_process() -> None:
    before = clients(XE.format(ccs=0, passed=1000), at_sec=0.0)
    after = clients(XE.format(ccs=2000, passed=2000), at_sec=2.0)
    assert after.memory_bytes == 24000 << 10
    assert shared(before, after) == 0.5  # two of four such engines


def test_each_client_counts_once_however_many_descriptors_it_has() -> None:
    one, other = (I915.format(client=number, render=10**9) for number in (7, 8))
    found = clients(one, one, other, at_sec=5.0)
    assert found.memory_bytes == 4 << 20
    assert found.busy is not None
    assert found.busy["render"] == (2.0, 5.0)
    assert found.busy["video"] == (1.0, 5.0)


@pytest.mark.parametrize(
    "text",
    [
        "", "pos:\t0\nflags:\t02\n", "drm-driver:\tvgem\ndrm-client-id:\t1\n", "drm-pdev:\t0000:03:00.0\n",
        "\0" * 100, "drm-pdev:\n:drm-client-id\n",
    ],
)  # fmt: skip
def test_other_files_are_no_clients(text: str) -> None:
    assert parse_client(text, at_sec=0.0) is None


def test_odd_values_are_left_out() -> None:
    text = (
        I915.format(client=1, render="many") + "drm-resident-local1:\t3 GiB\ndrm-engine-capacity-copy:\t0\n"
    )
    found = clients(text, at_sec=1.0)
    assert found.busy is not None
    assert "render" not in found.busy
    assert (found.busy["copy"], found.memory_bytes) == ((0.0, 1.0), 2 << 20)


def test_an_integrated_card_has_no_memory_of_its_own() -> None:
    text = "drm-client-id:\t1\ndrm-pdev:\t0000:00:02.0\ndrm-resident-system0:\t5 MiB\n"
    client = parse_client(text, at_sec=0.0)
    assert client is not None
    assert client.memory_bytes is None


def test_caches_that_nobody_has_mapped_are_not_in_use() -> None:
    assert used_bytes(1000, cached=600, mapped=100, shared=50, reclaimable=20) == 530
    assert used_bytes(1000, cached=100, mapped=150, shared=50, reclaimable=0) == 1000
    assert used_bytes(10, cached=600, mapped=0, shared=0, reclaimable=0) == 0
