# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the `ovms` program: its flags, exit codes and answers, over OpenVINO GenAI or simulated.

It exists for tests and is not OpenVINO Model Server: `--version`, the log and the README say so.
"""

from typing import Final

# The release whose behaviour is imitated.
OVMS_VERSION: Final = "2026.4.0"
NAME: Final = "OpenVINO Model Server"
NOTICE: Final = "stand-in for tests, not OpenVINO Model Server"
