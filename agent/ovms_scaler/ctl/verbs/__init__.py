# SPDX-License-Identifier: Apache-2.0
"""The verbs of ovms-scalerctl, by what they are about; each module names its own in VERBS."""
