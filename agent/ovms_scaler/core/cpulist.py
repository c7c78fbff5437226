# SPDX-License-Identifier: Apache-2.0
"""The kernel's two notations for sets of CPUs or nodes: lists ("0-31,192") and masks ("ff,00000000")."""

import re
from collections.abc import Iterable

from ovms_scaler.errors import InputError

MAX_NUMBER = 65535
"""The highest number accepted: eight times what x86 Linux can be built for, and few enough to enumerate."""

# The stride form is documented in the kernel's admin-guide/kernel-parameters.rst, "CPU lists".
_ITEM = re.compile(r"(?P<first>[0-9]+)(?:-(?P<last>[0-9]+)(?::(?P<used>[0-9]+)/(?P<group>[0-9]+))?)?")
_MASK = re.compile(r"[0-9a-fA-F]{1,8}(?:,[0-9a-fA-F]{8})*")
_SPACE = " \t\r\n"


def parse_cpu_list(text: str) -> frozenset[int]:
    """Read a list as the kernel prints it; "" is the empty set.

    ``0-10:2/4`` takes the first 2 of every 4 numbers from 0 to 10: 0-1,4-5,8-9.

    Raises InputError, naming the text and the rule it breaks.
    """
    if not (stripped := text.strip(_SPACE)):
        return frozenset()
    numbers: set[int] = set()
    enumerated = 0
    for item in stripped.split(","):
        part = _parse_item(item.strip(_SPACE), text=text)
        # Repetitions count too, or a long text of overlapping ranges would take minutes.
        enumerated += len(part)
        if enumerated > 2 * (MAX_NUMBER + 1):
            raise _refused(text, "it repeats too many numbers")
        numbers.update(part)
    return frozenset(numbers)


def format_cpu_list(cpus: Iterable[int]) -> str:
    """Write numbers as the kernel does: ascending, neighbours joined ("0-1"), "" for none."""
    spans: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if spans and spans[-1][1] == cpu - 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def parse_cpu_mask(text: str) -> frozenset[int]:
    """Read a mask as in cpumap and thread_siblings: 32-bit words in hexadecimal, the highest first.

    Raises InputError, naming the text and the rule it breaks.
    """
    stripped = text.strip(_SPACE)
    if _MASK.fullmatch(stripped) is None:
        raise InputError(f"cannot read CPU mask {_shown(text)}: must be hexadecimal like 'ff,00000000'")
    bits = bin(int(stripped.replace(",", ""), 16))[:1:-1]
    if len(bits) > MAX_NUMBER + 1:
        raise InputError(f"cannot read CPU mask {_shown(text)}: no number may be above {MAX_NUMBER}")
    return frozenset(number for number, bit in enumerate(bits) if bit == "1")


def _parse_item(item: str, *, text: str) -> range | list[int]:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise _refused(text, f"{_shown(item)} must be a number or a range like '0-31'")
    first = _parse_number(match["first"], text=text)
    if match["last"] is None:
        return range(first, first + 1)
    last = _parse_number(match["last"], text=text)
    if last < first:
        raise _refused(text, f"the range {item!r} must not end before it begins")
    if match["used"] is None:
        return range(first, last + 1)
    used = _parse_number(match["used"], text=text)
    group = _parse_number(match["group"], text=text)
    if not 0 < used <= group:
        raise _refused(text, f"in {item!r} {used} of every {group} must be 1 or more, and not more than all")
    return [cpu for cpu in range(first, last + 1) if (cpu - first) % group < used]


def _parse_number(digits: str, *, text: str) -> int:
    significant = digits.lstrip("0") or "0"
    if len(significant) > len(str(MAX_NUMBER)) or int(significant) > MAX_NUMBER:
        raise _refused(text, f"no number may be above {MAX_NUMBER}, not {_shown(digits)}")
    return int(significant)


def _refused(text: str, rule: str) -> InputError:
    return InputError(f"cannot read CPU list {_shown(text)}: {rule}")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
