# SPDX-License-Identifier: Apache-2.0
"""The agent from a checkout: ``python3 -m ovms_scaler``."""

from ovms_scaler.daemon.main import main

main()
