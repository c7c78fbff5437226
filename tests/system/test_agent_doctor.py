# SPDX-License-Identifier: Apache-2.0
"""On a host that serves, nothing is found; each planted fault is, and its remedy, typed, mends it."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab.host import Host
from lab.image import Image
from system import agent_host
from system.agent_host import Document

# The lab's hosts are containers on machines that keep controllers for themselves.
LACKING = ("--skip", "cgroups")
COPY = "/srv/models/copy"
GRAPH = """\
node {
  calculator: "HttpLLMCalculator"
  node_options { [type.googleapis.com/mediapipe.LLMCalculatorOptions] { models_path: "./" device: "GPU" } }
}
"""
# Curl is a program with libraries that is on every host, and not OVMS.
CURL = "install -D /usr/bin/curl /srv/curl/bin/ovms && mkdir -p /srv/curl/lib"


def engine(program: str) -> str:
    return f'[engine]\nbinary = "{program}"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A fault: ``make`` is a script, ``config`` the configuration to judge in place of the agent's.

    ``mend`` is a script, "" for the remedy itself up to the first ";", as somebody would type it; ``clear``
    removes what is left then.
    """

    check: str
    make: str = "true"
    config: str = ""
    subject: str
    remedy: str
    mend: str = ""
    clear: str = "true"
    result: str = "bad"


PLANTS = {
    "misspelled key": Plant(
        check="configuration",
        config=agent_host.pool(keys="instance_per_node = 2"),
        subject="pool[0].instance_per_node",
        remedy="instances_per_node",
        mend="sed -i /instance_per/d /root/doctor.toml",
    ),
    "engine not unpacked": Plant(
        check="engine-program",
        config=engine("/srv/none/bin/ovms") + agent_host.pool(),
        subject="/srv/none/bin/ovms",
        remedy="ovms-scalerctl engine install TARBALL",
        mend="sed -i s,/srv/none/,/opt/ovms/, /root/doctor.toml",
    ),
    "engine not executable": Plant(
        check="engine-program",
        make=f"{CURL}; chmod 644 /srv/curl/bin/ovms",
        config=engine("/srv/curl/bin/ovms") + agent_host.pool(),
        subject="/srv/curl/bin/ovms",
        remedy="chmod a+rx /srv/curl/bin/ovms",
    ),
    "library broken": Plant(
        check="engine-libraries",
        make=f"{CURL}; : >/srv/curl/lib/libcurl.so.4",
        config=engine("/srv/curl/bin/ovms") + agent_host.pool(),
        subject="/srv/curl/bin/ovms",
        remedy="libcurl.so.4",
        mend="rm /srv/curl/lib/libcurl.so.4",
    ),
    "another program": Plant(
        check="engine-version",
        make=CURL,
        config=engine("/srv/curl/bin/ovms") + agent_host.pool(),
        subject="/srv/curl/bin/ovms",
        remedy="engine.binary to the program of a release",
        mend="sed -i s,/srv/curl/,/opt/ovms/, /root/doctor.toml",
    ),
    "stray API key": Plant(
        check="engine-environment",
        make="systemctl set-environment API_KEY=0123456789abcdef",
        subject="systemd",
        remedy="systemctl unset-environment API_KEY",
        mend="systemctl unset-environment API_KEY",
        result="warning",
    ),
    "model closed to the engines": Plant(
        check="model-access",
        make=f"chmod 700 {COPY}",
        config=agent_host.pool(path=COPY),
        subject="pool chat",
        remedy=f"chmod -R a+rX {COPY}",
    ),
    "weights cut off": Plant(
        check="model-files",
        make=f"truncate -s 1000 {COPY}/openvino_model.bin",
        config=agent_host.pool(path=COPY),
        subject="pool chat",
        remedy="copy or export the model again",
        mend=f"cp /srv/models/tiny/openvino_model.bin {COPY}",
    ),
    "weights still a pointer": Plant(
        check="model-files",
        make=f"echo 'version https://git-lfs.github.com/spec/v1' >{COPY}/openvino_model.bin",
        config=agent_host.pool(path=COPY),
        subject="pool chat",
        remedy=f"git -C {COPY} lfs pull",
        mend=f"cp /srv/models/tiny/openvino_model.bin {COPY}",
    ),
    "graph for another device": Plant(
        check="model-device",
        make=f"cat >{COPY}/graph.pbtxt <<'EOF'\n{GRAPH}EOF",
        config=agent_host.pool(path=COPY),
        subject="pool chat",
        remedy="place the pool on GPU, or export the model again for CPU",
        mend=f"rm {COPY}/graph.pbtxt",
    ),
    "cache larger than the machine": Plant(
        check="memory-fit",
        config=agent_host.pool(keys="graph = { cache_size = 60000 }"),
        subject="chat-numa0.0",
        remedy="a smaller graph.cache_size",
        mend="sed -i /cache_size/d /root/doctor.toml",
    ),
    "port taken": Plant(
        check="ports",
        make="systemd-run --quiet --unit=squatter python3 -m http.server 8010; "
        "until ss -Hltn sport = :8010 | grep -q .; do sleep 0.05; done",
        config=agent_host.pool(keys='listen = "8010"'),
        subject="port 8010",
        remedy="systemctl disable --now squatter.service",
        mend="systemctl stop squatter",
    ),
    "ports handed out": Plant(
        check="ephemeral-ports",
        make="sysctl -w net.ipv4.ip_local_port_range='1024 65535'",
        subject="net.ipv4.ip_local_port_range",
        remedy="echo net.ipv4.ip_local_reserved_ports = 8000,8002,8003,8004 >>/etc/sysctl.d/60-ovms.conf",
        mend="sysctl -w net.ipv4.ip_local_reserved_ports=8000,8002-8004",
        clear="sysctl -w net.ipv4.ip_local_port_range='32768 60999' net.ipv4.ip_local_reserved_ports=",
        result="warning",
    ),
    "short queue": Plant(
        check="listen-queue",
        make="sysctl -w net.core.somaxconn=128",
        subject="net.core.somaxconn",
        remedy="echo net.core.somaxconn = 4096 >>/etc/sysctl.d/60-ovms.conf && sysctl --system",
        mend="echo net.core.somaxconn = 4096 >>/etc/sysctl.d/60-ovms.conf && sysctl --system || true",
        result="warning",
    ),
    "default site in the way": Plant(
        check="nginx-site",
        make="systemctl enable --now nginx",
        config=agent_host.pool(keys='listen = "80"'),
        subject="/etc/nginx/sites-enabled/default",
        remedy="rm /etc/nginx/sites-enabled/default && systemctl try-reload-or-restart nginx",
        mend="systemctl disable --now nginx",
    ),
    "stream module gone": Plant(
        check="nginx-modules",
        make="mv /usr/lib/nginx/modules/ngx_stream_module.so /root/",
        config='[proxy]\nmode = "stream"\n' + agent_host.pool(),
        subject="stream",
        remedy="apt install libnginx-mod-stream",
        mend="mv /root/ngx_stream_module.so /usr/lib/nginx/modules/",
    ),
    "files of root among the proxy's": Plant(
        check="proxy-files",
        make="touch /run/ovms-scaler-proxy/work/error.log",
        subject="/run/ovms-scaler-proxy/work/error.log",
        remedy="chown -R ovms-scaler-proxy: /run/ovms-scaler-proxy/work",
        clear="rm /run/ovms-scaler-proxy/work/error.log",
    ),
    "group gone": Plant(
        check="accounts",
        make="sed -i /^ovms-scaler:/d /etc/group /etc/gshadow",
        subject="group ovms-scaler",
        remedy="systemd-sysusers ovms-scaler.conf",
    ),
    "directory open to all": Plant(
        check="directories",
        make="chmod 777 /run/ovms-scaler-proxy/routes",
        subject="/run/ovms-scaler-proxy/routes",
        remedy="systemd-tmpfiles --create ovms-scaler.conf",
    ),
    "port book spoilt": Plant(
        check="state",
        make="cp -p /var/lib/ovms-scaler/ports.json /root/; echo '{' >/var/lib/ovms-scaler/ports.json",
        subject="/var/lib/ovms-scaler",
        remedy="restore it",
        mend="cp -p /root/ports.json /var/lib/ovms-scaler/ports.json",
    ),
    "no room": Plant(
        check="disk",
        make="mount -t tmpfs -o size=1M none /tmp",
        subject="/tmp",
        remedy="du -xh /tmp",
        mend="umount /tmp",
    ),
    "unit masked": Plant(
        check="units",
        make="systemctl mask ovms-scaler-proxy-check.service",
        subject="ovms-scaler-proxy-check.service",
        remedy="systemctl unmask ovms-scaler-proxy-check.service",
    ),
    "unit files not read": Plant(
        check="units",
        make="touch /lib/systemd/system/ovms-scaler.service",
        subject="ovms-scaler.service",
        remedy="systemctl daemon-reload",
        result="warning",
    ),
    "not started at boot": Plant(
        check="boot",
        make="systemctl disable ovms-scaler",
        subject="ovms-scaler.service",
        remedy="systemctl enable ovms-scaler",
        result="warning",
    ),
    "placement overridden": Plant(
        check="overrides",
        make="mkdir -p /etc/systemd/system/ovms@.service.d && "
        "printf '[Service]\\nCPUAffinity=0\\n' >/etc/systemd/system/ovms@.service.d/fast.conf",
        subject="/etc/systemd/system/ovms@.service.d/fast.conf",
        remedy="remove CPUAffinity= from /etc/systemd/system/ovms@.service.d/fast.conf",
        mend="rm -r /etc/systemd/system/ovms@.service.d",
        result="warning",
    ),
    "two services on the same cores": Plant(
        check="shared-cores",
        make="systemd-run --quiet --unit=pinned -p CPUAffinity=0 sleep infinity",
        subject="pinned.service",
        remedy="systemctl edit pinned.service",
        mend="systemctl stop pinned",
        result="warning",
    ),
    "engine of somebody else": Plant(
        check="other-engines",
        make="cp /bin/sleep /srv/ovms && systemd-run --quiet --unit=old-engine /srv/ovms infinity",
        subject="old-engine.service",
        remedy="systemctl disable --now old-engine.service",
        mend="systemctl stop old-engine",
        result="warning",
    ),
    "nothing is logged": Plant(
        check="journal",
        make="mkdir -p /etc/systemd/journald.conf.d && "
        "printf '[Journal]\\nStorage=none\\n' >/etc/systemd/journald.conf.d/none.conf",
        subject="systemd-journald",
        remedy="set Storage=auto",
        mend="rm /etc/systemd/journald.conf.d/none.conf",
    ),
    "agent paused": Plant(
        check="agent",
        make="ovms-scalerctl pause",
        subject="ovms-scaler.service",
        remedy="ovms-scalerctl resume",
        result="warning",
    ),
    "agent does not run": Plant(
        check="agent",
        make="systemctl stop ovms-scaler",
        subject="ovms-scaler.service",
        remedy="systemctl start ovms-scaler",
        result="warning",
    ),
}


@pytest.fixture(scope="module")
def host(installed_image: Image) -> Iterator[Host]:
    """A host that serves, with a copy of the model to spoil; Debian's own nginx is off."""
    with agent_host.running_host(installed_image, agent_host.pool(), in_rotation=2) as booted:
        booted.run("systemctl", "disable", "--now", "nginx")
        booted.run("cp", "-r", "/srv/models/tiny", COPY)
        yield booted


def look(host: Host, *arguments: str) -> list[Document]:
    """Everything that is not good."""
    ran = host.run("ovms-scalerctl", "doctor", "--json", *arguments, check=False)
    assert ran.stderr == ""
    document = json.loads(ran.stdout)
    summary = document["summary"]
    nothing_known = not summary["good"] and not summary["warning"]
    assert ran.returncode == (1 if summary["bad"] or nothing_known else 0)
    return [dict(one) for one in document["findings"] if one["result"] != "good"]


def test_nothing_is_found_on_a_host_that_serves(host: Host) -> None:
    assert look(host, *LACKING) == []
    shown = host.run("ovms-scalerctl", "doctor", *LACKING).stdout
    assert shown.startswith("nothing found: ")
    assert len(shown.splitlines()) == 1


def test_anybody_may_ask_and_nothing_is_bad(host: Host) -> None:
    command = [
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "ovms-scalerctl",
        "doctor",
        "--json",
    ]
    document = json.loads(host.run(*command).stdout)
    found = [one for one in document["findings"] if one["result"] != "good" and one["check"] not in LACKING]
    assert {one["result"] for one in found} == {"unknown"}
    assert {one["remedy"] for one in found} == {"run this as root"}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_planted_fault_is_found_and_mended_by_its_remedy(host: Host, plant: Plant) -> None:
    arguments = [plant.check]
    if plant.config:
        host.write("/root/doctor.toml", plant.config)
        arguments += ["--config", "/root/doctor.toml"]
    try:
        host.script(plant.make)
        found = [one for one in look(host, *arguments) if plant.subject in one["subject"]]
        assert found
        assert (found[0]["check"], found[0]["result"]) == (plant.check, plant.result)
        assert plant.remedy in found[0]["remedy"] or plant.remedy in found[0]["reason"]
        typed = plant.mend or found[0]["remedy"].partition(";")[0]
        assert plant.mend or shlex.split(typed)
    finally:
        host.script(plant.mend or plant.remedy)
    host.wait_for(lambda: look(host, *arguments) == [], 30, f"{plant.check} to have nothing to find")
    host.script(plant.clear)


def test_host_is_as_healthy_as_before(host: Host) -> None:
    agent_host.wait_until_routed(host, 2)
    assert look(host, *LACKING) == []
