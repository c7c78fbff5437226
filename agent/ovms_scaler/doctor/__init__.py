# SPDX-License-Identifier: Apache-2.0
"""Looks at everything that goes wrong in practice, with and without the agent."""
