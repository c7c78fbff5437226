# SPDX-License-Identifier: Apache-2.0
"""Orders: time, effects, signals and logging of the running agent."""
