# SPDX-License-Identifier: Apache-2.0
"""What `ovms-scalerctl doctor` makes of what it gathered: from facts to findings."""
