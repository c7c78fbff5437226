# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from daemon_host import DaemonHost, write
from structlog.testing import capture_logs

from ovms_scaler.core.facts import ProxyFacts
from ovms_scaler.daemon.proxy_watch import ProxyWatch
from ovms_scaler.host.proxy_unit import PROXY_UNIT

GROUP = f"sys/fs/cgroup/system.slice/{PROXY_UNIT}/cgroup.procs"
LEAVING = "nginx: worker process is shutting down"
CUT = b'<190>x nginx: {"request_time":"61.0","completion":"","worker":"17"}'


def run_workers(root: Path) -> None:
    """A master, a worker that is leaving, one that is not, and one that has gone."""
    write(root / GROUP, "15\n17\n18\n19\n")
    for pid, title in ((15, "nginx: master process"), (17, LEAVING), (18, "nginx: worker process")):
        write(root / f"proc/{pid}/cmdline", f"{title}   \0")


def test_what_was_cut_is_told_and_logged_once(tmp_path: Path) -> None:
    run_workers(tmp_path)
    watch = ProxyWatch(tmp_path)
    with capture_logs() as said:
        proxy = watch.look(ProxyFacts(generation="a"), shutdown_timeout_sec=60)
        assert (proxy.generation, proxy.old_workers, proxy.cut_requests) == ("a", 1, 0)
        watch.note_datagram(CUT)
        watch.note_datagram(CUT)
        assert [watch.look(ProxyFacts(), shutdown_timeout_sec=60).cut_requests for _ in range(2)] == [2, 2]
        watch.note_datagram(CUT)
        assert watch.look(ProxyFacts(), shutdown_timeout_sec=60).cut_requests == 3
    assert [(line["log_level"], line.get("old_workers"), line.get("cut_requests")) for line in said] == [
        ("info", 1, None),
        ("warning", None, 2),
        ("warning", None, 3),
    ]


async def test_a_look_at_the_host_has_them(host: DaemonHost) -> None:
    run_workers(host.root)
    proxy = (await host.observe()).proxy
    assert (proxy.old_workers, proxy.cut_requests) == (1, 0)
