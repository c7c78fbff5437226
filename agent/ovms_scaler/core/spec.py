# SPDX-License-Identifier: Apache-2.0
"""What the administrator asked for: the configuration as frozen values, and the rules it must keep."""

from dataclasses import dataclass
from enum import StrEnum

from ovms_scaler.core.spec_admin import Admin
from ovms_scaler.core.spec_engine import Engine, Graph, Ovms
from ovms_scaler.core.spec_health import HealthRules
from ovms_scaler.core.table import key, render_schema
from ovms_scaler.core.values import (
    ABSOLUTE,
    ABSOLUTE_RULE,
    GPU,
    GPU_RULE,
    NAME,
    NAME_RULE,
    VENDOR,
    VENDOR_RULE,
    cpu_list_rule,
    listen_rule,
    nodes_rule,
)


class Placement(StrEnum):
    """How a pool's instances are spread over the machine."""

    numa = "numa"
    gpu = "gpu"
    hetero = "hetero"
    whole = "whole"


class Smt(StrEnum):
    """Which hardware threads of a core an instance may run on."""

    all = "all"
    physical = "physical"


class Memory(StrEnum):
    """How firmly an instance's memory is kept on its node; names as in NUMAPolicy=, systemd.exec(5)."""

    bind = "bind"
    preferred = "preferred"


class ProxyMode(StrEnum):
    """Which nginx subsystem balances: per request (http) or per connection (stream)."""

    http = "http"
    stream = "stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One model, and the instances that serve it."""

    name: str = key(
        pattern=NAME, rule=NAME_RULE, example='"chat"', doc="Name of the pool; instances are named after it."
    )
    model_name: str | None = key(
        None,
        pattern=r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,254}",
        rule="must be a model name such as org/model",
        example='"meta-llama/Meta-Llama-3-8B-Instruct"',
        doc="Name that clients put in the field model.",
    )
    model_path: str | None = key(
        None,
        pattern=ABSOLUTE,
        rule=ABSOLUTE_RULE,
        example='"/srv/models/llama"',
        doc="Directory of the model in OpenVINO format.",
    )
    config_path: str | None = key(
        None,
        pattern=ABSOLUTE,
        rule=ABSOLUTE_RULE,
        example='"/srv/models/config.json"',
        doc="An OVMS config.json with several models, in place of model_name and model_path.",
    )
    placement: Placement = key(
        Placement.numa,
        example='"numa"',
        doc="numa: one instance per NUMA node; gpu: one per GPU; hetero: one per group of GPUs; "
        "whole: one unbound instance.",
    )
    listen: str = key(
        "8000",
        check=listen_rule,
        example='"127.0.0.1:8000"',
        doc="Port, or ADDRESS:PORT, where clients connect; pools may share it.",
    )
    nodes: str | None = key(
        None,
        check=nodes_rule,
        example='"0-2"',
        doc="NUMA nodes to use, or whose GPUs to use, in the kernel's list form; all by default.",
    )
    gpus: tuple[str, ...] = key(
        (),
        pattern=GPU,
        rule=GPU_RULE,
        example='["0000:03:00.0"]',
        doc="PCI addresses or device ids of the GPUs that this pool uses; all by default.",
    )
    gpus_per_instance: int = key(
        2, minimum=2, maximum=16, example="2", doc="GPUs that one instance spans, with placement hetero."
    )
    host_cpus_per_gpu: int = key(
        4,
        minimum=1,
        maximum=256,
        example="4",
        doc="CPUs set aside for the host threads of each GPU, in whole cores; all GPUs of a node have half "
        "of its cores at most.",
    )
    smt: Smt = key(
        Smt.all,
        example='"physical"',
        doc="all: both hardware threads of each core; physical: the first of each core only.",
    )
    instances_per_node: int = key(
        1, minimum=1, maximum=64, example="1", doc="Instances that share a node, each with cores of its own."
    )
    reserve_cpus: str = key(
        "",
        check=cpu_list_rule,
        example='"0,96"',
        doc="CPUs that no instance of this pool uses, in the kernel's list form.",
    )
    memory: Memory = key(
        Memory.bind,
        example='"preferred"',
        doc="bind: memory from the instance's node only; preferred: from there first.",
    )
    weight: int | None = key(
        None,
        minimum=1,
        maximum=10000,
        example="32",
        doc="Share of requests of each instance; by default its number of physical cores, and for one on "
        "GPUs as much as the largest that answers for the same model.",
    )
    waiting_room: int = key(
        1024,
        minimum=0,
        maximum=100000,
        example="1024",
        doc="Requests that may wait at one instance beyond those it works on before a client gets 503.",
    )
    max_unavailable: int = key(
        1,
        minimum=1,
        maximum=64,
        example="1",
        doc="Instances that a rolling change or restart may have out of use at the same time; one always "
        "stays.",
    )
    graph: Graph = key(Graph, example="{ cache_size = 40 }", doc="Options of the engine's LLM graph.")
    ovms: Ovms = key(Ovms, example="{ flags = [] }", doc="Further arguments and environment of the engine.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """How clients are received and spread."""

    mode: ProxyMode = key(
        ProxyMode.http,
        example='"http"',
        doc="http: balance each request; stream: balance each connection, as the OVMS guide does.",
    )
    read_timeout_sec: int = key(
        1800,
        minimum=1,
        maximum=86400,
        example="1800",
        doc="Seconds that may pass between two pieces of an answer, the first one included.",
    )
    shutdown_timeout_sec: int = key(
        3600,
        minimum=1,
        maximum=604800,
        example="3600",
        doc="Seconds that an answer may go on after a change of the proxy's configuration before it is cut.",
    )
    retry_after_sec: int = key(
        5,
        minimum=1,
        maximum=3600,
        example="5",
        doc="Retry-After, in seconds, of the 503 that a client gets when no instance has room.",
    )
    client_max_body_bytes: int = key(
        268435456,
        minimum=1024,
        maximum=1073741824,
        example="268435456",
        doc="Largest request in bytes; images travel in requests.",
    )
    api_key_file: str | None = key(
        None,
        pattern=ABSOLUTE,
        rule=ABSOLUTE_RULE,
        example='"/etc/ovms-scaler/api-keys"',
        doc="File of API keys, one a line, of which clients need one; only its owner, root, may read it.",
    )
    tls_certificate: str | None = key(
        None,
        pattern=ABSOLUTE,
        rule=ABSOLUTE_RULE,
        example='"/etc/ovms-scaler/tls.crt"',
        doc="Certificate in PEM form, with its chain; clients then need TLS at every listen.",
    )
    tls_certificate_key: str | None = key(
        None,
        pattern=ABSOLUTE,
        rule=ABSOLUTE_RULE,
        example='"/etc/ovms-scaler/tls.key"',
        doc="Private key of the certificate in PEM form, without a passphrase.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRules:
    """Which GPUs are used, and what is done about one that hangs."""

    vendors: tuple[str, ...] = key(
        ("0x8086",),
        pattern=VENDOR,
        rule=VENDOR_RULE,
        example='["0x8086"]',
        doc="PCI vendor ids of the GPUs to use; OpenVINO's GPU plug-in is for Intel's.",
    )
    include: tuple[str, ...] = key(
        (),
        pattern=GPU,
        rule=GPU_RULE,
        example='["0xe20b"]',
        doc="PCI addresses or device ids; when given, pools that name no gpus use these, whatever they are, "
        "and no other.",
    )
    exclude: tuple[str, ...] = key(
        (),
        pattern=GPU,
        rule=GPU_RULE,
        example='["0000:03:00.0"]',
        doc="PCI addresses or device ids of GPUs that are never used.",
    )
    include_integrated: bool = key(
        default=False,
        example="true",
        doc="Whether integrated GPUs are used beside discrete ones; alone they are.",
    )
    drain_timeout_sec: int = key(
        30,
        minimum=0,
        maximum=3600,
        example="30",
        doc="Seconds that requests may still take after a hang for which the instance need only be "
        "restarted.",
    )
    recovery_attempts: int = key(
        3,
        minimum=0,
        maximum=100,
        example="3",
        doc="Times in a row that a GPU which hangs is recovered; after these its instance is quarantined.",
    )
    recovery_window_sec: int = key(
        600,
        minimum=1,
        maximum=86400,
        example="600",
        doc="Seconds without a hang after which the earlier ones no longer count.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The whole configuration."""

    pool: tuple[Pool, ...] = key((), example="[[pool]]", doc="The pools.")
    engine: Engine = key(Engine, example="{}", doc="Where the engine is installed.")
    proxy: Proxy = key(Proxy, example="{}", doc="How clients are received and spread.")
    health: HealthRules = key(HealthRules, example="{}", doc="When an instance is believed to serve.")
    gpu: GpuRules = key(
        GpuRules, example="{}", doc="Which GPUs are used, and what is done about one that hangs."
    )
    admin: Admin = key(Admin, example="{}", doc="Where the agent shows itself.")


def schema() -> dict[str, object]:
    """The JSON Schema of config.toml; what combines several keys is checked by ``rules.parse_spec`` only."""
    return render_schema(Spec, "ovms-scaler configuration")
