# SPDX-License-Identifier: Apache-2.0
"""A process as the kernel shows it: this very one, and copies of what it shows of others."""

import os
import socket
import threading
from pathlib import Path

import pytest

from ovms_scaler.core.process_view import Listening
from ovms_scaler.host.process_view import read_view

STATUS = """\
Name:\tovms
Cpus_allowed_list:\t{cpus}
Mems_allowed_list:\t0
"""


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A process 4711 with two threads, bound by its group."""
    write(tmp_path, "proc/4711/task/4711/status", STATUS.format(cpus="0-3"))
    write(tmp_path, "proc/4711/task/4712/status", STATUS.format(cpus="2"))
    write(tmp_path, "proc/4711/cgroup", "0::/ovms.slice/ovms@chat-numa0.service\n")
    write(tmp_path, "proc/4711/cmdline", "/opt/ovms/bin/ovms\0--rest_port\x008003\0")
    write(tmp_path, "proc/4711/limits", "Max open files            4096   8192   files\n")
    write(tmp_path, "proc/4711/environ", "HOME=/var/cache\0")
    group = "sys/fs/cgroup/ovms.slice/ovms@chat-numa0.service"
    write(tmp_path, f"{group}/cpuset.cpus.effective", "0-3\n")
    write(tmp_path, f"{group}/cpuset.mems.effective", "0\n")
    (tmp_path / "proc/4711/fd").mkdir()
    (tmp_path / "proc/4711/fd/3").symlink_to("/dev/dri/renderD129")
    (tmp_path / "proc/4711/fd/4").symlink_to("/dev/dri/renderD129")
    (tmp_path / "proc/4711/fd/5").symlink_to("socket:[77]")
    return tmp_path


def test_copied_process_is_read(root: Path) -> None:
    view = read_view(4711, root)
    assert view is not None
    assert [(one.tid, one.name, one.cpus) for one in view.threads] == [
        (4711, "ovms", frozenset({0, 1, 2, 3})),
        (4712, "ovms", frozenset({2})),
    ]
    assert view.cgroup == "/ovms.slice/ovms@chat-numa0.service"
    assert (view.cpuset_cpus, view.cpuset_nodes) == (frozenset({0, 1, 2, 3}), frozenset({0}))
    assert view.argv == ("/opt/ovms/bin/ovms", "--rest_port", "8003")
    assert (view.open_files, view.environment) == (4096, {"HOME": "/var/cache"})
    assert view.render_nodes == ("/dev/dri/renderD129",)
    assert (view.listening, view.memory, view.unseen) == ((), None, ())


def test_group_without_cpuset_says_nothing_of_it(root: Path) -> None:
    for path in (root / "sys/fs/cgroup/ovms.slice").rglob("cpuset.*"):
        path.unlink()
    view = read_view(4711, root)
    assert view is not None
    assert (view.cpuset_cpus, view.cpuset_nodes) == (None, None)


def test_thread_that_ends_meanwhile_is_left_out(root: Path) -> None:
    write(root, "proc/4711/task/4713/status", "")
    view = read_view(4711, root)
    assert view is not None
    assert len(view.threads) == 2


def test_process_that_is_gone(tmp_path: Path) -> None:
    assert read_view(4711, tmp_path) is None


def test_this_process_with_a_pinned_thread_and_a_socket() -> None:
    ready, done = threading.Event(), threading.Event()
    cpu = min(os.sched_getaffinity(0))

    def work() -> None:
        os.sched_setaffinity(0, {cpu})
        ready.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        ready.wait()
        with socket.create_server(("127.0.0.1", 0)) as server:
            view = read_view(os.getpid())
            assert view is not None
            assert view.listening == (Listening(address="127.0.0.1", port=server.getsockname()[1]),)
    finally:
        done.set()
        thread.join()
    by_id = {one.tid: one.cpus for one in view.threads}
    assert by_id[os.getpid()] == os.sched_getaffinity(0)
    assert thread.native_id is not None
    assert by_id[thread.native_id] == {cpu}
    assert view.environment is not None
    assert view.environment["PATH"] == os.environ["PATH"]
    assert view.unseen == ()


def test_what_only_root_may_see_is_named() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        view = read_view(1)
        os.write(writer, "\n".join(view.unseen if view else ()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read().splitlines()
    assert said == [
        "sockets and devices: run this as root",
        "environment: run this as root",
        "memory: run this as root",
    ]
