# SPDX-License-Identifier: Apache-2.0
"""The status page: the agent's documents as HTML."""

from ovms_scaler.page.rendering import CONTENT_SECURITY_POLICY, render_fragment, render_page

__all__ = ["CONTENT_SECURITY_POLICY", "render_fragment", "render_page"]
