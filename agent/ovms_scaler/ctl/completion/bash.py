# SPDX-License-Identifier: Apache-2.0
"""The script for bash, on top of functions of bash-completion that Debian 12 and 13 have."""

import textwrap
from collections.abc import Iterable, Iterator

from ovms_scaler.ctl.completion.tree import Kind, Option, Value, Verb

WIDTH = 100
_HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# bash completion for ovms-scalerctl; written by: python3 -m ovms_scaler.ctl completion bash
# shellcheck shell=bash

# Words of one kind that begin like $cur.
_ovms_scalerctl_fill()
{
    case $1 in
        text) ;;
        file) _filedir ;;
        directory) _filedir -d ;;
        choice) mapfile -t COMPREPLY < <(compgen -W "$2" -- "$cur") ;;
        *) # known on the host only: one a line, with a description behind a tab
            mapfile -t COMPREPLY < <(
                compgen -W "$(ovms-scalerctl names "$1" 2>/dev/null | cut -f 1)" -- "$cur"
            )
            __ltrim_colon_completions "$cur"
            ;;
    esac
}

_ovms_scalerctl()
{
    local cur prev words cword split
    _init_completion -s -n : || return

    # The verb, how many of its arguments stand before the cursor, and the option whose value is there.
    local verb='' count=0 option='' words_left=0 word
    for word in "${words[@]:1:cword - 1}"; do
        if ((words_left > 0)); then
            ((words_left--))
            continue
        fi
        option=''
        case "$verb $word" in
"""
_FOUND = """\
            *" -"*) ;;
"""
_COUNTED = """\
                verb=${verb:+$verb }$word
                count=0
                ;;
            *) ((++count)) ;;
        esac
    done
    ((words_left > 0)) || option=''
    [[ $split == true ]] && option="$verb $prev"

    case $option in
        '') ;;
"""
_VALUES_END = """\
        *) return ;;
    esac

    # An option, or an argument.
    local options='' kind=text choices=''
    case $verb in
"""
_TAIL = """\
    esac
    if [[ $cur == -* ]]; then
        _ovms_scalerctl_fill choice "$options"
    else
        _ovms_scalerctl_fill "$kind" "$choices"
    fi
} &&
    complete -F _ovms_scalerctl ovms-scalerctl
"""


def render_bash(tree: Verb) -> str:
    """The file /usr/share/bash-completion/completions/ovms-scalerctl."""
    valued = [
        (" ".join((*verb.path, name)) if verb.path else f" {name}", option.value)
        for verb in tree.walk()
        for option in verb.options
        if option.value is not None
        for name in option.names
    ]
    paths = [
        " ".join(verb.path) if len(verb.path) > 1 else f" {verb.name}" for verb in tree.walk() if verb.path
    ]
    parts = [_HEAD]
    for count in sorted({value.words for _, value in valued}):
        parts.append(_pattern([key for key, value in valued if value.words == count], 12))
        parts.append(f'                option="$verb $word" words_left={count}\n                ;;\n')
    parts += [_FOUND, _pattern(paths, 12), _COUNTED]
    fills: dict[str, list[str]] = {}
    for key, value in valued:
        if value.kind is not Kind.text:
            fills.setdefault(_fill(value), []).append(key)
    for fill, keys in fills.items():
        parts += [_pattern(keys, 8), f"            {fill}\n            return\n            ;;\n"]
    parts.append(_VALUES_END)
    for verb in tree.walk():
        parts += _render_verb(verb)
    return "".join([*parts, _TAIL])


def _pattern(keys: Iterable[str], indent: int) -> str:
    """The pattern of a branch of ``case``, so far to the right: any of ``keys``."""
    lines = [""]
    for key in keys:
        if len(lines[-1]) + len(key) > WIDTH - indent - 10:
            lines.append("")
        lines[-1] += f'"{key}" | '
    text = (" \\\n" + " " * (indent + 4)).join(line.rstrip() for line in lines)
    return " " * indent + text.removesuffix(" |") + ")\n"


def _fill(value: Value) -> str:
    if value.kind is Kind.choice:
        return f'_ovms_scalerctl_fill choice "{" ".join(value.choices)}"'
    return f"_ovms_scalerctl_fill {value.kind}"


def _render_verb(verb: Verb) -> Iterator[str]:
    yield f'        "{" ".join(verb.path)}")\n'
    yield _words("options", [name for option in verb.options for name in _spellings(option)])
    if verb.verbs:
        yield "            ((count == 0)) && kind=choice\n"
        yield _words("choices", [one.name for one in verb.verbs])
    for index, value in enumerate(verb.arguments):
        more = ">=" if value.is_repeated else "=="
        choices = f' choices="{" ".join(value.choices)}"' if value.choices else ""
        yield f"            ((count {more} {index})) && kind='{value.kind}'{choices}\n"
    yield "            ;;\n"


def _spellings(option: Option) -> tuple[str, ...]:
    """The long names, which say what they do."""
    names = (*option.names, *option.negations)
    return tuple(name for name in names if name.startswith("--")) or names


def _words(variable: str, words: Iterable[str]) -> str:
    lines = textwrap.wrap(" ".join(words), WIDTH - 16, break_long_words=False, break_on_hyphens=False)
    return f'            {variable}="' + "\n                ".join(lines) + '"\n'
