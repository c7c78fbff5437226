# SPDX-License-Identifier: Apache-2.0
"""How often the proxy may be reloaded when nobody is lost by waiting.

Each reload forgets the counts of open requests, and leaves workers behind that stay as long as their longest
request. Removals do not wait; what does is put off the longer, the more of these are still there. So at most
sixteen configurations' workers are kept by instances that join, however often instances come and go.
"""

# Instances that become ready within this time of a reload join together.
COALESCE_SEC = 2.0
_CALM = 2  # earlier configurations whose workers are still there: more than these, and the pause doubles
_FULL = 16
_LONGEST_SEC = 60.0


def pause_sec(*, old_workers: int, worker_processes: int, joins: bool, is_awaited: bool = False) -> float:
    """Seconds from the last reload to one that can wait, infinite until old workers have gone.

    ``joins``: an instance is to join others; ``is_awaited``: and another may not leave before it has. What
    else has changed was asked for by the administrator. Both wait a minute at most.
    """
    configurations = -(-old_workers // worker_processes)
    if joins and not is_awaited and configurations >= _FULL:
        return float("inf")
    if not joins and configurations <= _CALM:
        return 0.0
    return float(min(COALESCE_SEC * 2 ** max(0, configurations - _CALM), _LONGEST_SEC))
