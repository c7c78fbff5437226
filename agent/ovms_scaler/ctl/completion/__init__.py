# SPDX-License-Identifier: Apache-2.0
"""What shells complete: the verbs, as a script for each shell, and names that only a host knows."""
