# SPDX-License-Identifier: Apache-2.0
"""Faults of the configuration, the engine and the models."""

from doctor.plant import Plant, add_to_pool, chmod, machine, removing, writing
from doctor_host import POOL, VERSION, script

from ovms_scaler.core.checks.finding import Result

MODEL = "srv/models/tiny"
GRAPH = """\
node {
  calculator: "HttpLLMCalculator"
  node_options { [type.googleapis.com/mediapipe.LLMCalculatorOptions] { models_path: "./" device: "GPU" } }
}
"""
LOADER = "/opt/ovms/bin/ovms: error while loading shared libraries: {}: cannot open shared object file\n"
OLD_LIBC = "/opt/ovms/bin/ovms: /lib/libc.so.6: version `GLIBC_2.38' not found (required by it)\n"
ENGINE = "opt/ovms/bin/ovms"
GOOD_ENGINE = writing(ENGINE, script(VERSION), mode=0o755)
GOOD_CONFIG = writing("etc/ovms-scaler/config.toml", POOL)

PLANTS = {
    "misspelled key": Plant(
        check="configuration",
        make=add_to_pool("instance_per_node = 2\n"),
        subject="pool[0].instance_per_node",
        reason="is not a key",
        remedy="instances_per_node",
        mend=GOOD_CONFIG,
    ),
    "configuration without a pool": Plant(
        check="configuration",
        make=writing("etc/ovms-scaler/config.toml", "\n"),
        subject="config.toml",
        reason="it has no pool",
        remedy="[[pool]]",
        mend=GOOD_CONFIG,
        result=Result.warning,
    ),
    "engine not unpacked": Plant(
        check="engine-program",
        make=removing(ENGINE),
        subject="/opt/ovms/bin/ovms",
        reason="there is no such program",
        remedy="ovms-scalerctl engine install TARBALL",
        note="engine.binary",
        mend=GOOD_ENGINE,
    ),
    "engine not executable": Plant(
        check="engine-program",
        make=chmod(ENGINE, 0o644),
        subject="/opt/ovms/bin/ovms",
        reason="may not run",
        remedy="chmod a+rx /opt/ovms/bin/ovms",
        mend=None,
    ),
    "library missing": Plant(
        check="engine-libraries",
        make=writing(ENGINE, script(LOADER.format("libxml2.so.2"), status=127), mode=0o755),
        subject="/opt/ovms/bin/ovms",
        reason="libxml2.so.2",
        remedy="apt install libxml2",
        mend=GOOD_ENGINE,
    ),
    "Python missing": Plant(
        check="engine-libraries",
        make=writing(ENGINE, script(LOADER.format("libpython3.9.so.1.0"), status=127), mode=0o755),
        subject="/opt/ovms/bin/ovms",
        reason="Python 3.9",
        remedy="python_off",
        mend=GOOD_ENGINE,
    ),
    "engine for a newer distribution": Plant(
        check="engine-libraries",
        make=writing(ENGINE, script(OLD_LIBC, status=1), mode=0o755),
        subject="/opt/ovms/bin/ovms",
        reason="it needs glibc 2.38",
        remedy="ovms_ubuntu22",
        mend=GOOD_ENGINE,
    ),
    "another program": Plant(
        check="engine-version",
        make=writing(ENGINE, script("ovmsd 1.0\n"), mode=0o755),
        subject="/opt/ovms/bin/ovms",
        reason="ovmsd 1.0",
        remedy="engine.binary",
        mend=GOOD_ENGINE,
    ),
    "ancient engine": Plant(
        check="engine-version",
        make=writing(ENGINE, script("OpenVINO Model Server 2024.5.0.abcdef12\n"), mode=0o755),
        subject="/opt/ovms/bin/ovms",
        reason="2024.5.0 is older",
        remedy="engine install",
        mend=GOOD_ENGINE,
    ),
    "build without Python": Plant(
        check="engine-python",
        make=writing(ENGINE, script(VERSION.replace("py_on", "py_off")), mode=0o755),
        subject="/opt/ovms/bin/ovms",
        reason="without Python",
        remedy="python_on",
        mend=GOOD_ENGINE,
        result=Result.warning,
    ),
    "stray API key": Plant(
        check="engine-environment",
        make=writing("lab/environment", "API_KEY=secret\n"),
        subject="systemd",
        reason="API_KEY",
        remedy="systemctl unset-environment API_KEY",
        mend=writing("lab/environment", ""),
        result=Result.warning,
    ),
    "model gone": Plant(
        check="model-files",
        make=lambda host: host.path(MODEL).rename(host.path("srv/models/other")),
        subject="pool chat",
        reason="/srv/models/tiny",
        remedy="check the path",
        mend=lambda host: host.path("srv/models/other").rename(host.path(MODEL)),
    ),
    "weights missing": Plant(
        check="model-files",
        make=removing(f"{MODEL}/openvino_model.bin"),
        subject="pool chat",
        reason="'/srv/models/tiny/openvino_model.bin' is missing",
        remedy="copy or export",
        mend=writing(f"{MODEL}/openvino_model.bin", "0" * 16),
    ),
    "weights cut off": Plant(
        check="model-files",
        make=writing(f"{MODEL}/openvino_model.bin", "0" * 15),
        subject="pool chat",
        reason="it has 15 bytes",
        remedy="copy or export",
        mend=writing(f"{MODEL}/openvino_model.bin", "0" * 16),
    ),
    "weights still a pointer": Plant(
        check="model-files",
        make=writing(f"{MODEL}/openvino_model.bin", "version https://git-lfs.github.com/spec/v1\noid ...\n"),
        subject="pool chat",
        reason="Git LFS",
        remedy="git -C /srv/models/tiny lfs pull",
        mend=writing(f"{MODEL}/openvino_model.bin", "0" * 16),
    ),
    "network cut off": Plant(
        check="model-files",
        make=writing(f"{MODEL}/openvino_model.xml", "<net><layers><data"),
        subject="pool chat",
        reason="breaks off",
        remedy="copy or export",
        mend=writing(f"{MODEL}/openvino_model.xml", "<net/>\n"),
    ),
    "model closed to the engines": Plant(
        check="model-access",
        make=chmod(f"{MODEL}/openvino_model.bin", 0o000),
        subject="pool chat",
        reason="may not read '/srv/models/tiny/openvino_model.bin' (mode 0000)",
        remedy="chmod -R a+rX /srv/models/tiny",
        mend=None,
    ),
    "way to the model closed": Plant(
        check="model-access",
        make=chmod("srv/models", 0o600),
        subject="pool chat",
        reason="may not pass '/srv/models'",
        remedy="chmod a+x /srv/models",
        mend=chmod("srv/models", 0o711),
    ),
    "graph for another device": Plant(
        check="model-device",
        make=writing(f"{MODEL}/graph.pbtxt", GRAPH),
        subject="pool chat",
        reason="names device 'GPU'",
        remedy="export the model again for CPU",
        mend=writing(f"{MODEL}/graph.pbtxt", GRAPH.replace("GPU", "CPU")),
    ),
    "cache larger than the node": Plant(
        check="memory-fit",
        make=add_to_pool("graph = { cache_size = 400 }\n"),
        subject="chat-numa0",
        reason="401.0 GiB",
        remedy="graph.cache_size",
        mend=GOOD_CONFIG,
    ),
    "memory in use": Plant(
        check="memory-free",
        make=writing(
            "sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 67108864 kB\nNode 0 MemFree: 9 kB\n"
        ),
        subject="chat-numa0",
        reason="1024 MiB are needed to start",
        remedy="ps -eo pid,rss,args --sort=-rss | head",
        note="end what",
        mend=machine(),
        result=Result.warning,
    ),
}
