# SPDX-License-Identifier: Apache-2.0
"""Clients that people use, against the front, with real inference behind it where the engine has it."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import paths
from lab.host import Host
from lab.image import Image
from system import agent_host

CLIENTS = paths.ROOT / "tests" / "clients"
PYTHON = str(paths.CACHE / "clients" / "venv" / "bin" / "python")
FRONT = "http://127.0.0.1:8000"
KEYS = "/etc/ovms-scaler/keys"
# Real inference on Debian 12; the seeds of two projects drive 32 users for each instance, and 500 in all.
CONFIG = agent_host.pool(environment={})
SIMULATED = agent_host.pool(environment={"OVMS_STANDIN_ENGINE": "simulated", "OVMS_STANDIN_TPOT_MS": "2"})

pytestmark = agent_host.on_bookworm


@pytest.fixture(scope="module")
def serving(installed_image: Image) -> Iterator[Host]:
    with agent_host.running_host(installed_image, CONFIG, in_rotation=2) as host:
        yield host


def run(host: Host, program: str, *arguments: str) -> Any:
    """The JSON that a program of tests/clients prints, run in the network of the host."""
    return json.loads(host.netns_run(PYTHON, str(CLIENTS / program), *arguments).stdout)


def test_the_openai_client_in_all_its_ways(serving: Host) -> None:
    found = run(serving, "openai_client.py", f"{FRONT}/v3", agent_host.MODEL)
    counts = {name: found[name] for name in ("chat", "stream", "text")}
    assert all(1 <= count <= 12 for count in counts.values()), counts
    assert (found["async"], found["unknown model"]) == (8, "NotFoundError")


def test_a_chain_of_langchain(serving: Host) -> None:
    found = run(serving, "rag_chain.py", f"{FRONT}/v3", agent_host.MODEL)
    assert found["answer"] > 0
    assert found["pieces"] > 1
    assert found["batch"] == 6


def test_lm_evaluation_harness(serving: Host, tmp_path: Path) -> None:
    settings = {
        "model": agent_host.MODEL,
        "base_url": f"{FRONT}/v3/completions",
        "num_concurrent": "4",
        "max_retries": "1",
        "tokenizer_backend": "None",
        "tokenized_requests": "False",
    }
    task = CLIENTS / "lm_eval_task"
    arguments = ",".join(f"{name}={value}" for name, value in settings.items())
    # A task finds its data from where it is run.
    script = 'cd "$1" && HF_HOME=$2 HF_HUB_OFFLINE=1 exec "$3" -m lm_eval --model local-completions ' + (
        '--model_args "$4" --tasks servers --include_path . --output_path "$2" --log_samples'
    )
    serving.netns_run("sh", "-c", script, "sh", str(task), str(tmp_path), PYTHON, arguments)
    (samples,) = tmp_path.rglob("samples_servers_*.jsonl")
    answers = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    assert len(answers) == 8
    assert all(answers), answers


def test_an_api_key_is_asked_for_once_it_is_set(serving: Host) -> None:
    serving.write(KEYS, "secret-of-the-test\n")
    serving.run("chmod", "600", KEYS)
    agent_host.reload(serving, f'{CONFIG}\n[proxy]\napi_key_file = "{KEYS}"\n', "--wait")
    try:
        refused = run(serving, "openai_client.py", f"{FRONT}/v3", agent_host.MODEL, "wrong")
        assert refused == {"refused": 401}
        found = run(serving, "openai_client.py", f"{FRONT}/v3", agent_host.MODEL, "secret-of-the-test")
        assert found["async"] == 8
    finally:
        agent_host.reload(serving, CONFIG, "--wait")


@pytest.mark.parametrize("users", [32, 500])
def test_users_of_locust(users: int, serving: Host, tmp_path: Path) -> None:
    """As many users as the published loads have, each waiting for its answer; all come back whole."""
    agent_host.reload(serving, SIMULATED, "--wait")
    script = (
        'OVMS_MODEL=$1 exec "$2" -m locust --locustfile "$3" --host "$4" --headless --users "$5" '
        '--spawn-rate "$5" --run-time 10s --stop-timeout 30s --csv "$6" --only-summary'
    )
    serving.netns_run(
        "sh", "-c", script, "sh", agent_host.MODEL, PYTHON, str(CLIENTS / "locustfile.py"), FRONT,
        str(users), str(tmp_path / "run"),
    )  # fmt: skip
    with (tmp_path / "run_stats.csv").open() as table:
        (total,) = (row for row in csv.DictReader(table) if row["Name"] == "Aggregated")
    assert int(total["Failure Count"]) == 0
    assert int(total["Request Count"]) >= users
