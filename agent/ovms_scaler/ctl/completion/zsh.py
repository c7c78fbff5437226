# SPDX-License-Identifier: Apache-2.0
"""The script for zsh."""

from collections.abc import Iterator

from ovms_scaler.ctl.completion.tree import Kind, Option, Value, Verb

_HEAD = """\
#compdef ovms-scalerctl
# SPDX-License-Identifier: Apache-2.0
# zsh completion for ovms-scalerctl; written by: python3 -m ovms_scaler.ctl completion zsh

# Words of one kind that only the host knows: one a line, with a description behind a tab.
_ovms-scalerctl_names() {
    local -a found
    found=(${(f)"$(_call_program $1 ovms-scalerctl names $1 2>/dev/null)"})
    found=(${${found//:/\\\\:}/$'\\t'/:})
    _describe -t $1 $1 found
}
"""
_BODY = """\
    case $state in
        verb)
            local -a verbs=(
{verbs}
            )
            _describe -t verbs verb verbs
            ;;
        argument)
            curcontext=${{curcontext%:*}}-$words[1]:
            case $words[1] in
{branches}
            esac
            ;;
    esac
}}
"""


def render_zsh(tree: Verb) -> str:
    """The file /usr/share/zsh/vendor-completions/_ovms-scalerctl."""
    groups = [verb for verb in tree.walk() if verb.verbs]
    parts = [_HEAD]
    for verb in groups[1:] + groups[:1]:
        parts += ["\n", *_render_group(verb)]
    return "".join([*parts, '\n_ovms-scalerctl "$@"\n'])


def _function(verb: Verb) -> str:
    return "-".join(("_ovms-scalerctl", *verb.path))


def _render_group(verb: Verb) -> Iterator[str]:
    yield f"{_function(verb)}() {{\n    local curcontext=$curcontext state line\n    typeset -A opt_args\n"
    specs = [spec for option in verb.options for spec in _specs(option, ends=True)]
    specs += [_quote("1:verb:->verb"), _quote("*::argument:->argument")]
    yield f"    _arguments -C{_lines(specs, 8)}\n"
    verbs = "\n".join(f"                {_quote(f'{one.name}:{one.help}')}" for one in verb.verbs)
    branches = "\n".join(_branch(one) for one in verb.verbs)
    yield _BODY.format(verbs=verbs, branches=branches)


def _branch(verb: Verb) -> str:
    if verb.verbs:
        return f"                {verb.name}) {_function(verb)} ;;"
    specs = [spec for option in verb.options for spec in _specs(option, ends=False)]
    specs += [_argument(index, value) for index, value in enumerate(verb.arguments, start=1)]
    return f"{' ' * 16}{verb.name})\n{' ' * 20}_arguments{_lines(specs, 24)}\n{' ' * 20};;"


def _lines(specs: list[str], indent: int) -> str:
    return "".join(f" \\\n{' ' * indent}{spec}" for spec in specs)


def _argument(index: int, value: Value) -> str:
    return _quote(f"{'*' if value.is_repeated else index}:{_action(value)}")


def _specs(option: Option, *, ends: bool) -> Iterator[str]:
    """As _arguments takes them; with ``ends`` nothing is to follow those of the program itself."""
    spellings = (*option.names, *option.negations)
    is_repeated = option.value is not None and option.value.is_repeated
    others = "- *" if ends or "--help" in spellings else " ".join(spellings)
    shut_out = "*" if is_repeated else f"({others})"
    for name in spellings:
        value = ""
        if option.value is not None:
            name += "=" if name.startswith("--") else "+"
            value = f":{_action(option.value)}" * option.value.words
        help_text = option.help.replace("[", "\\[").replace("]", "\\]")
        yield _quote(f"{shut_out}{name}[{help_text}]{value}")


def _action(value: Value) -> str:
    """The message and what to fill in."""
    message = value.name.replace(":", "\\:") or " "
    if value.kind is Kind.choice:
        return f"{message}:({' '.join(value.choices)})"
    # Behind a space a function gets its own arguments only.
    fills = {Kind.file: "_files", Kind.directory: "_files -/", Kind.text: " "}
    return f"{message}:{fills.get(value.kind, f' _ovms-scalerctl_names {value.kind}')}"


def _quote(text: str) -> str:
    """In single quotes, of which there is none inside."""
    return "'" + text.replace("'", "'\\''") + "'"
