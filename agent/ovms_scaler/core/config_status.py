# SPDX-License-Identifier: Apache-2.0
"""What an answer to ``GET /v1/config`` says about the models that are expected of an engine."""

from ovms_scaler.core.facts import Probe


def parse_config_status(body: bytes | str, expected: tuple[str, ...]) -> tuple[Probe, str]:
    """The verdict on the names in ``expected``, and one sentence for people. Never raises."""
    raise NotImplementedError
