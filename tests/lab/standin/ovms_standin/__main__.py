# SPDX-License-Identifier: Apache-2.0
"""Runs the stand-in from a source tree: `python3 -m lab.standin.ovms_standin`."""

import sys

from lab.standin.ovms_standin.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
