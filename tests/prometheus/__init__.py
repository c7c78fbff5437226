# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus with an hour of our own metrics, for what is shipped for it."""
