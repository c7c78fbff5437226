# SPDX-License-Identifier: Apache-2.0
"""The command from a checkout: ``python3 -m ovms_scaler.ctl``."""

from ovms_scaler.ctl.main import main

main()
