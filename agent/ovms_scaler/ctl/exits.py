# SPDX-License-Identifier: Apache-2.0
"""What an exit status says; scripts rely on these numbers."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of every verb; the last two are the shell's own way to name an end by signal."""

    good = 0
    bad_news = 1  # there is an answer, and it is bad: an invalid file, an instance that does not serve
    usage = 2
    unreachable = 3  # the agent cannot be asked
    interrupted = 130
    output_closed = 141
