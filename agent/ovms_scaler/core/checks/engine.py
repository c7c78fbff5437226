# SPDX-License-Identifier: Apache-2.0
"""Whether the engine's program can run here, and what it is."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from shlex import quote

from ovms_scaler.core.checks.access import Closed, describe, remedy_for
from ovms_scaler.core.checks.finding import Finding, bad, good, unknown, warning
from ovms_scaler.core.release import Version, parse_version
from ovms_scaler.core.release_check import LOST_WITHOUT_PYTHON, Ran, System, find_fault, find_missing
from ovms_scaler.errors import InputError

# An LLM is served from --model_path since then (docs/llm/quickstart.md of OVMS).
_OLDEST = (2025, 1)
_RELEASES = "https://github.com/openvinotoolkit/model_server/releases"
_INSTALL = "ovms-scalerctl engine install TARBALL"
# Variables that OVMS itself reads (docs/parameters.md, src/cli_parser.cpp), and what each of them does.
_VARIABLES = {
    "API_KEY": "every request then needs this key, and engines answer 500 to those of the agent",
    "GRPC_SERVERS": "it overrides --grpc_workers",
    "LD_PRELOAD": "each engine loads that library first",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """The engine's program, and what became of ``--version``.

    ``closed`` is the first thing on the way to the program that ``user`` may not pass or run. ``refused``
    is why the kernel would not start it; else ``ran`` is how it ended. ``libraries`` is what ldd(1) says of
    those that a running engine opens later, and ``libraries_of_gpus`` of those for GPUs.
    """

    program: str
    user: str
    system: System
    exists: bool = True
    closed: Closed | None = None
    refused: str = ""
    ran: Ran | None = None
    libraries: str = ""
    libraries_of_gpus: str = ""

    @property
    def runs(self) -> bool:
        return self.ran is not None and self.ran.result == "success"


def judge_program(facts: EngineFacts) -> Finding:
    check, subject = "engine-program", facts.program
    if not facts.exists:
        return bad(
            check,
            subject,
            "there is no such program",
            _INSTALL,
            f'a release is from {_RELEASES}; or set engine.binary = "/its/bin/ovms"',
        )
    if facts.closed is not None:
        return bad(check, subject, describe(facts.closed, facts.user), remedy_for(facts.closed, facts.user))
    if facts.refused:
        return bad(
            check,
            subject,
            f"the kernel does not start it: {facts.refused}",
            f"file {quote(subject)}",
            f"take the build for this machine from {_RELEASES}",
        )
    return good(check, subject, f"the user {facts.user!r} may run it")


def judge_libraries(facts: EngineFacts, *, on_gpus: bool) -> Finding:
    """``on_gpus`` says that a pool is placed on GPUs, for which there are libraries of their own."""
    check, subject = "engine-libraries", facts.program
    if facts.ran is None:
        return unknown(check, subject, "the program cannot be started", "see engine-program")
    fault = (
        find_fault(facts.ran, facts.system)
        or find_missing(facts.libraries, facts.system)
        or (find_missing(facts.libraries_of_gpus, facts.system) if on_gpus else None)
    )
    if fault is not None:
        return bad(check, subject, fault.text, fault.hint)
    return good(check, subject, "it finds its libraries and starts")


def judge_version(facts: EngineFacts) -> Finding:
    check, subject = "engine-version", facts.program
    if not facts.runs or facts.ran is None:
        return unknown(check, subject, "the program does not start", "see engine-libraries")
    try:
        version = parse_version(facts.ran.output)
    except InputError as error:
        remedy = f'set engine.binary to the program of a release ({_RELEASES}), as "/opt/ovms/bin/ovms"'
        return bad(check, subject, error.message, remedy)
    if _parse_numbers(version) < _OLDEST:
        reason = f"version {version.number} is older than 2025.1 and cannot serve a language model by itself"
        return bad(check, subject, reason, _INSTALL, f"a newer release is from {_RELEASES}")
    return good(check, subject, f"version {version.number}")


def _parse_numbers(version: Version) -> tuple[int, int]:
    year, number = version.number.split(".")[:2]
    return int(year), int(number)


def judge_python(facts: EngineFacts, generating: Collection[str]) -> Finding:
    """``generating`` are the pools that are asked for text."""
    check, subject = "engine-python", facts.program
    if not facts.runs or facts.ran is None:
        return unknown(check, subject, "the program does not start", "see engine-libraries")
    try:
        version = parse_version(facts.ran.output)
    except InputError:
        return unknown(check, subject, "it is not OVMS", "see engine-version")
    if version.python is not False:
        return good(check, subject, "it has Python" if version.python else "it does not say otherwise")
    if not generating:
        return good(check, subject, "it is built without Python, which no pool needs")
    return warning(
        check,
        subject,
        f"it is built without Python: {LOST_WITHOUT_PYTHON}",
        f"take a build python_on ({_RELEASES}) on a system that has its Python",
        "if nobody needs it: ovms-scalerctl doctor --skip engine-python",
    )


def judge_environment(pools: Mapping[str, Mapping[str, str]], manager: Iterable[str]) -> tuple[Finding, ...]:
    """``pools`` has pool.ovms.environment by pool, ``manager`` the names that systemd sets everywhere."""
    check = "engine-environment"
    found = [
        warning(
            check,
            f"pool {pool}",
            f"its environment sets {name}: {_VARIABLES[name]}",
            f"remove {name} from pool.ovms.environment",
        )
        for pool, environment in pools.items()
        for name in environment
        if name in _VARIABLES
    ]
    found += [
        warning(
            check,
            "systemd",
            f"it gives every service {name}: {_VARIABLES[name]}",
            f"systemctl unset-environment {name}",
            "and remove it from DefaultEnvironment= in /etc/systemd/system.conf",
        )
        for name in manager
        if name in _VARIABLES
    ]
    return tuple(found) or (good(check, "pools", "nothing in it changes what engines do"),)
