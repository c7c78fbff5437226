# SPDX-License-Identifier: Apache-2.0
"""Command lines that OVMS refuses with exit code 64, and those that end at once with 0."""

import os
import resource
import subprocess

import pytest
from lab.standin.ovms_standin.flags import UsageError, parse_settings
from lab.standin.ovms_standin.main import main
from lab.standin.ovms_standin.validation import HostLimits, check_settings, rest_workers
from standin.program import simulated_command, simulated_environment

LIMITS = HostLimits(cpu_count=8, open_files=1024)
MODEL = "--model_name m --model_path /m"
REST = f"{MODEL} --rest_port 9000"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(f"{REST} --bogus 1", "unmatched arguments: --bogus, 1", id="unknown option"),
        pytest.param(f"{REST} stray", "unmatched arguments: stray", id="stray word"),
        pytest.param(f"{REST} --stateful", "unmatched arguments", id="option removed in 2026.3"),
        pytest.param(f"{MODEL} --rest_port", "missing an argument", id="no value"),
        pytest.param(f"{MODEL} --rest_port x", "failed to parse", id="port is not a number"),
        pytest.param(f"{MODEL} --rest_port=-1", "failed to parse", id="negative port"),
        pytest.param("--rest_port 9000", "Use config_path or model_path", id="nothing to serve"),
        pytest.param("--rest_port 9000 --model_name m", "Use config_path or", id="name without path"),
        pytest.param(f"{REST} --config_path /c", "Use either config_path", id="both modes"),
        pytest.param(
            "--rest_port 9 --config_path /c --target_device CPU",
            "exclusive with the config",
            id="device with config",
        ),
        pytest.param(
            "--rest_port 9 --config_path /c --cache_size 1", "--config_path", id="graph option with config"
        ),
        pytest.param(f"{MODEL}", "cannot both be unset", id="no port"),
        pytest.param(f"{MODEL} --rest_port 9000 --port 9000", "same values", id="same ports"),
        pytest.param(f"{MODEL} --rest_port 70000", "out of range", id="rest port too high"),
        pytest.param(f"{REST} --port 70000", "out of range", id="port too high"),
        pytest.param(
            f"{MODEL} --port 9 --metrics_enable", "rest_port setting is missing", id="metrics without REST"
        ),
        pytest.param(
            f"{REST} --metrics_list ovms_streams", "metrics_enable setting", id="list without metrics"
        ),
        pytest.param(
            f"{MODEL} --port 9 --rest_workers 4", "rest_port is not set", id="workers without REST"
        ),
        pytest.param(f"{REST} --rest_workers 0", "from 2 to 10000", id="no worker"),
        pytest.param(f"{REST} --rest_workers 10001", "from 2 to 10000", id="too many workers"),
        pytest.param(f"{REST} --rest_workers 169", "should not exceed 168", id="more workers than files"),
        pytest.param(f"{REST} --grpc_workers 9", "CPU core count : 8", id="more gRPC workers than CPUs"),
        pytest.param(f"{REST} --grpc_workers 0", "CPU core count", id="no gRPC worker"),
        pytest.param(f"{REST} --rest_bind_address 192.0.2", "rest_bind_address", id="half an address"),
        pytest.param(
            f"{REST} --rest_bind_address 127.0.0.1,a_b", "rest_bind_address", id="one of two is bad"
        ),
        pytest.param(f"{REST} --grpc_bind_address ?", "grpc_bind_address", id="bad gRPC address"),
        pytest.param(f"{REST} --log_level VERBOSE", "log_level should be one of", id="unknown log level"),
        pytest.param(f"{REST} --task chat", "unsupported value: chat", id="unknown task"),
        pytest.param(
            f"{REST} --task text_generation --target_device MULTI:CPU", "MULTI:CPU", id="device not for LLM"
        ),
    ],
)
def test_rule_broken_is_usage_error(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace("+", r"\+")):
        check_settings(parse_settings(line.split()), LIMITS)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(f"{REST} --rest_workers 168", id="as many workers as files allow"),
        pytest.param(f"{REST} --rest_workers 1", id="one worker counts as two"),
        pytest.param(f"{MODEL} --port 9000", id="gRPC only"),
        pytest.param(f"{REST} --metrics_enable --metrics_list ovms_current_graphs", id="metrics"),
        pytest.param(
            f"{REST} --task text_generation --target_device GPU.1 --cache_size=4", id="graph in memory"
        ),
        pytest.param(f"{REST} --rest_bind_address localhost", id="host name (aborts later)"),
        pytest.param(
            "--config_path /c --rest_port 9000 --cache_dir /x --log_level DEBUG", id="configuration"
        ),
    ],
)
def test_good_line_is_accepted(line: str) -> None:
    check_settings(parse_settings(line.split()), LIMITS)


@pytest.mark.parametrize(
    ("line", "limits", "workers"),
    [
        pytest.param(REST, LIMITS, 8, id="one per CPU"),
        pytest.param(REST, HostLimits(cpu_count=384, open_files=1024), 144, id="capped by open files"),
        pytest.param(REST, HostLimits(cpu_count=1, open_files=1024), 2, id="never below two"),
        pytest.param(f"{REST} --rest_workers 1", LIMITS, 2, id="one is raised to two"),
        pytest.param(f"{REST} --rest_workers 64", LIMITS, 64, id="as given"),
    ],
)
def test_rest_workers_in_effect(line: str, limits: HostLimits, workers: int) -> None:
    assert rest_workers(parse_settings(line.split()), limits) == workers


def test_version_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("OpenVINO Model Server 2026.4.0 ")
    assert "not OpenVINO Model Server" in first


def test_help_lists_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--rest_workers" in capsys.readouterr().out


def test_limit_of_open_files_is_the_process_own() -> None:
    """The rule looks at the soft limit that the program was started with."""

    def lower_limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    ended = subprocess.run(
        simulated_command(*REST.split(), "--rest_workers", "41"),
        env=simulated_environment(),
        capture_output=True,
        text=True,
        preexec_fn=lower_limit,
        check=False,
    )
    assert ended.returncode == os.EX_USAGE
    assert "should not exceed 40" in ended.stderr


def test_api_key_file_missing_is_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*REST.split(), "--api_key_file", "/does/not/exist"]) == os.EX_USAGE
    assert "/does/not/exist" in capsys.readouterr().err
