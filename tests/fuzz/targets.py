# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: everything that the agent reads and did not write itself."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu_machines
import world
from hypothesis import strategies as st

from fuzz import specs
from fuzz.control import open_control
from fuzz.driver import ODD, Target, damaged
from fuzz.engine_metrics import open_engine_metrics
from fuzz.journal import open_journal
from fuzz.written import assert_harmless
from ovms_scaler.config import Config, read_config, restore_config
from ovms_scaler.core import credentials
from ovms_scaler.core.books import Books
from ovms_scaler.core.config_status import parse_config_status
from ovms_scaler.core.drm_use import add_clients, parse_client
from ovms_scaler.core.facts import Probe
from ovms_scaler.core.measures import Looks, measures_document
from ovms_scaler.core.record import Record, parse_datagram
from ovms_scaler.core.target import resolve
from ovms_scaler.core.topology import topology_document
from ovms_scaler.core.traffic import Traffic
from ovms_scaler.core.use import CardsUse, busy_share
from ovms_scaler.errors import ConfigError, HostError, InputError
from ovms_scaler.host.sysfs import read_topology

PACKAGING = Path(__file__).parents[2] / "packaging"
SPEC = world.spec({"name": "chat"}, {"name": "cards", "placement": "gpu", "listen": "8001"})
# An error is read by people and kept in logs.
LONGEST_MESSAGE = 20_000
ENVELOPE = (
    b'<190>Nov 21 15:00:00 host nginx: {"client":"%b","status":"%b","upstream":"%b","upstream_status":"%b",'
    b'"upstream_header_time":"%b","upstream_response_time":"%b","completion":"OK"}'
)


def assert_plain(text: str) -> None:
    """What goes to a terminal and into logs: no control characters but line ends, and an end."""
    odd = [char for char in text if not char.isprintable() and char != "\n"]
    assert not odd, f"{odd!r} in {text[:200]!r}"
    assert len(text) < LONGEST_MESSAGE


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ovms-fuzz-", dir="/tmp"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


# Configuration


@contextlib.contextmanager
def open_config() -> Iterator[Callable[[bytes], None]]:
    topology = world.topology()
    with directory() as made:

        def check(text: bytes) -> None:
            (made / "config.toml").write_bytes(text)
            try:
                config = read_config(made / "config.toml")
                again = restore_config(json.loads(json.dumps(config.document())))
                assert again.spec == config.spec
                resolve_and_write(config, topology)
            except ConfigError as error:
                assert_plain(str(error))

        yield check


def resolve_and_write(config: Config, topology: Any) -> None:
    models = {pool.name: world.model(path=pool.model_path or "/x") for pool in config.spec.pool}
    assert_harmless(config.spec, resolve(config.spec, topology, models, Books()))


CONFIGS = st.one_of(
    specs.DOCUMENTS.map(specs.to_toml).map(lambda text: text.encode("utf-8", "replace")),
    specs.almost_accepted().map(specs.to_toml).map(lambda text: text.encode("utf-8", "replace")),
    specs.ACCEPTED.map(specs.to_toml).map(lambda text: text.encode("utf-8", "replace")),
    damaged(((PACKAGING / "config.toml").read_bytes().replace(b"\n#", b"\n"),)),
    damaged((b'[[pool]]\nname = "chat"\nmodel_name = "a/b"\nmodel_path = "/m"\n[proxy]\nmode = "http"\n',)),
)


# What the kernel says of the machine


@contextlib.contextmanager
def open_sysfs() -> Iterator[Callable[[list[tuple[int, bytes | None]]], None]]:
    with directory() as made:
        root = gpu_machines.four_gpus(made / "root")
        paths = sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())

        def check(damage: list[tuple[int, bytes | None]]) -> None:
            restore: list[Callable[[], None]] = []
            try:
                for index, content in damage:
                    path = paths[index % len(paths)]
                    if path.is_symlink() or path.exists():
                        restore.append(spoil(path, content))
                survey(root)
            finally:
                for mend in reversed(restore):
                    mend()

        yield check


def spoil(path: Path, content: bytes | None) -> Callable[[], None]:
    """Replace the file, b"/..." by a link to there, None by nothing; what undoes it."""
    was = path.readlink() if path.is_symlink() else path.read_bytes()
    path.unlink()
    if content is not None and content.startswith(b"/") and b"\0" not in content:
        path.symlink_to(content[:200].decode("utf-8", "surrogateescape"))
    elif content is not None:
        path.write_bytes(content)

    def mend() -> None:
        path.unlink(missing_ok=True)
        if isinstance(was, bytes):
            path.write_bytes(was)
        else:
            path.symlink_to(was)

    return mend


def survey(root: Path) -> None:
    try:
        topology = read_topology(root)
    except HostError as error:
        assert_plain(str(error))
        return
    assert sorted(cpu for core in topology.cores for cpu in core) == sorted(topology.online)
    json.dumps(topology_document(topology))
    for warning in topology.warnings:
        assert_plain(warning)
    models = {pool.name: world.model() for pool in SPEC.pool}
    try:
        assert_harmless(SPEC, resolve(SPEC, topology, models, Books()))
    except ConfigError as error:
        assert_plain(str(error))


NUMBERS = st.sampled_from(
    (b"", b"0", b"-1", b"0-3", b"3-0", b"4-99", b"65535", b"65536", b"0-65535", b"0-4294967295",
    b"0,0,0", b"0-3:1/2",
     b"ff", b"ffffffff,ffffffff", b"0x8086", b"0x10de", b"0xe20b", b"0x030000",
     b"DRIVER=xe\nPCI_ID=8086:E20B\n",
     b"MAJOR=226\nMINOR=128\nDEVNAME=dri/renderD128\n", b"DEVNAME=../../etc/passwd\n",
     b"DEVNAME=dri/render D\n%n\n",
     b"MemTotal: 99999999999999999999999 kB\n", b"Node 0 MemTotal: -1 kB\n",
     b"Cpus_allowed_list:\t0-65535\n", b"/",
     b"/sys/devices/pci0000:00", b"/proc/self/root", b"/sys/bus/pci/drivers/\n[Service]\n")
)  # fmt: skip
DAMAGE = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.one_of(
            st.none(), NUMBERS, ODD, st.binary(max_size=40), damaged((b"0-3,8-11\n", b"0000:03:00.0\n"))
        ),
    ),
    min_size=1,
    max_size=12,
)


# What engines answer


@contextlib.contextmanager
def open_config_status() -> Iterator[Callable[[tuple[bytes, tuple[str, ...]]], None]]:
    def check(case: tuple[bytes, tuple[str, ...]]) -> None:
        body, expected = case
        probe, sentence = parse_config_status(body, expected)
        assert isinstance(probe, Probe)
        assert_plain(sentence)
        assert "\n" not in sentence
        if probe is Probe.available:
            assert set(expected) <= json.loads(body).keys()

    yield check


VERSION: dict[str, object] = {
    "version": "1",
    "state": "AVAILABLE",
    "status": {"error_code": "OK", "error_message": "OK"},
}
STATES = st.fixed_dictionaries(
    {
        "version": st.one_of(st.just("1"), specs.ANYTHING),
        "state": st.one_of(st.sampled_from(("AVAILABLE", "LOADING", "END", "X")), specs.ANYTHING),
        "status": st.one_of(
            st.fixed_dictionaries(
                {
                    "error_code": st.one_of(
                        st.sampled_from(("OK", "UNKNOWN", "FAILED_PRECONDITION")), specs.ANYTHING
                    )
                }
            ),
            specs.ANYTHING,
        ),
    }
)
MODELS = st.dictionaries(
    st.one_of(st.sampled_from(("a/b", "error")), specs.HOSTILE),
    st.one_of(st.fixed_dictionaries({"model_version_status": st.lists(STATES, max_size=2)}), specs.ANYTHING),
    max_size=3,
)
BODIES = st.one_of(
    MODELS.map(lambda value: json.dumps(value).encode()),
    damaged((json.dumps({"a/b": {"model_version_status": [VERSION]}}, indent=1).encode(), b"{}")),
    st.binary(max_size=100),
)
EXPECTED = st.lists(st.one_of(st.just("a/b"), specs.HOSTILE), max_size=2).map(tuple)


# What the proxy says of requests


@contextlib.contextmanager
def open_datagrams() -> Iterator[Callable[[list[bytes]], None]]:
    def check(datagrams: list[bytes]) -> None:
        record, traffic = Record(), Traffic(0.0)
        for number, data in enumerate(datagrams):
            answer = parse_datagram(data)
            if answer is None:
                continue
            assert all(0 <= port <= 99999 and 0 <= status <= 999 for port, status in answer.tries)
            traffic.note(answer, now_sec=float(number))
            for port in record.note(answer, now_sec=float(number)):
                record.is_convicted(port, [8003, 8004], now_sec=float(number))
        json.dumps(measures_document(INSTANCES, traffic, Looks(), at=0.0, now_sec=0.5), allow_nan=False)

    yield check


INSTANCES = world.target().instances
ADDRESSES = st.lists(
    st.sampled_from((b"127.0.0.1:8003", b"127.0.0.1:8004", b"unix:/x.sock", b"127.0.0.1:99999", b"", b"-")),
    max_size=4,
)
CODES = st.lists(
    st.sampled_from((b"200", b"400", b"502", b"-", b"", b"0", b"000", b"\xd9\xa3\xd9\xa3\xd9\xa3")),
    max_size=4,
)
TIMES = st.lists(
    st.sampled_from(
        (b"0.001", b"12.500", b"-", b"", b"-1.000", b"nan", b"1e999", b"999999999.999", b"9" * 400)
    ),
    max_size=4,
)
JOINTS = st.sampled_from((b", ", b" : ", b",", b""))
CLIENTS = st.one_of(st.sampled_from((b"10.0.0.1", b"::1", b"unix:")), ODD)
TOLD = (
    b"10.0.0.1", b"200", b"127.0.0.1:8003, 127.0.0.1:8004", b"502, 200", b"-, 0.250", b"0.001, 1.250",
)  # fmt: skip
DATAGRAMS = st.lists(
    st.one_of(
        st.builds(
            lambda client, status, joint, *lists: (
                ENVELOPE % (client, status, *(joint.join(parts) for parts in lists))
            ),
            CLIENTS,
            st.sampled_from((b"200", b"000", b"503", b"", b"abc")),
            JOINTS,
            ADDRESSES,
            CODES,
            TIMES,
            TIMES,
        ),
        damaged((ENVELOPE % TOLD,)),
        st.binary(max_size=60),
    ),
    max_size=12,
)


# What drivers tell of an open GPU


@contextlib.contextmanager
def open_fdinfo() -> Iterator[Callable[[list[bytes]], None]]:
    def check(files: list[bytes]) -> None:
        texts = [file.decode("ascii", "replace") for file in files]
        clients = [parse_client(text, at_sec=float(number)) for number, text in enumerate(texts)]
        cards = add_clients(client for client in clients if client is not None)
        spans = [CardsUse(at_sec=at_sec, cards=cards) for at_sec in (0.0, 1.0)]
        for address in cards:
            share = busy_share((spans[0], spans[1]), spans[1], address)
            assert share is None or 0 <= share <= 1

    yield check


FDINFO = (
    b"drm-driver:\ti915\ndrm-client-id:\t7\ndrm-pdev:\t0000:03:00.0\ndrm-resident-local0:\t2 MiB\n"
    b"drm-engine-render:\t12 ns\ndrm-engine-capacity-render:\t2\n",
    b"drm-driver:\txe\ndrm-client-id:\t3\ndrm-pdev:\t0000:03:00.0\ndrm-resident-vram0:\t23992 KiB\n"
    b"drm-cycles-ccs:\t28257900\ndrm-total-cycles-ccs:\t7655183225\ndrm-engine-capacity-ccs:\t4\n",
)


# Files of API keys


@contextlib.contextmanager
def open_api_keys() -> Iterator[Callable[[str], None]]:
    def check(text: str) -> None:
        try:
            keys = credentials.parse_api_keys(text)
        except InputError as error:
            assert_plain(str(error))
            return
        lines = credentials.render_api_keys(keys).splitlines()
        assert len(lines) == 3 + len(keys)
        assert all(line.count('"') == 2 and line.endswith('" 1;') for line in lines[2:-1])

    yield check


KEYS = st.lists(
    st.one_of(st.sampled_from(("sk-0123456789abcdef", "k" * 256, "k" * 257, "# x", "")), specs.HOSTILE),
    max_size=4,
).flatmap(
    lambda lines: st.sampled_from(("\n", "\r\n", "\r", "\u2028", " ")).map(lambda end: end.join(lines))
)


TARGETS = {
    target.name: target
    for target in (
        Target(name="config", about="config.toml", inputs=CONFIGS, open=open_config),
        Target(name="sysfs", about="files of /sys and /proc", inputs=DAMAGE, open=open_sysfs),
        Target(
            name="config_status",
            about="answers to GET /v1/config",
            inputs=st.tuples(BODIES, EXPECTED),
            open=open_config_status,
        ),
        Target(name="datagrams", about="the proxy's access log", inputs=DATAGRAMS, open=open_datagrams),
        Target(
            name="fdinfo",
            about="what drivers tell of an open GPU",
            inputs=st.lists(damaged(FDINFO), max_size=4),
            open=open_fdinfo,
        ),
        Target(name="api_keys", about="files of API keys", inputs=KEYS, open=open_api_keys),
        open_control(),
        open_engine_metrics(),
        open_journal(),
    )
}
