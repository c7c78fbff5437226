# SPDX-License-Identifier: Apache-2.0
"""The script for fish."""

from collections.abc import Iterator

from ovms_scaler.ctl.completion.tree import Kind, Option, Value, Verb

_HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# fish completion for ovms-scalerctl; written by: python3 -m ovms_scaler.ctl completion fish

# The words before the cursor, without options and their values.
function __ovms_scalerctl_words
    set -l values 0
    for word in (commandline -opc)[2..]
        if test $values -gt 0
            set values (math $values - 1)
VALUED        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

# Whether these words, a verb, are the first ones.
function __ovms_scalerctl_in
    set -l words (__ovms_scalerctl_words)
    set -l length (count $argv)
    test (count $words) -ge $length; and test "$words[1..$length]" = "$argv"
end

# Whether they are followed by so many others, and no more.
function __ovms_scalerctl_at
    set -l words (__ovms_scalerctl_words)
    set -l verb $argv[2..]
    test (count $words) -eq (math (count $verb) + $argv[1]); or return
    test -z "$verb"; or __ovms_scalerctl_in $verb
end

# Words of one kind that only the host knows.
function __ovms_scalerctl_names
    ovms-scalerctl names $argv[1] 2>/dev/null
end

complete -c ovms-scalerctl -f
"""


def render_fish(tree: Verb) -> str:
    """The file /usr/share/fish/vendor_completions.d/ovms-scalerctl.fish."""
    valued: dict[int, set[str]] = {}
    for verb in tree.walk():
        for option in verb.options:
            if option.value is not None:
                valued.setdefault(option.value.words, set()).update(option.names)
    branches = (
        f"        else if contains -- $word {' '.join(sorted(names))}\n            set values {count}\n"
        for count, names in sorted(valued.items())
    )
    parts = [_HEAD.replace("VALUED", "".join(branches))]
    for verb in tree.walk():
        parts += ["\n", *_render_verb(verb)]
    return "".join(parts)


def _render_verb(verb: Verb) -> Iterator[str]:
    path = " ".join(verb.path)
    for below in verb.verbs:
        yield _complete(f"__ovms_scalerctl_at {' '.join(('0', *verb.path))}", f"-a {below.name}", below.help)
    for index, value in enumerate(verb.arguments):
        if value.kind is Kind.text:
            continue
        where = f"__ovms_scalerctl_in {path}" if value.is_repeated else f"__ovms_scalerctl_at {index} {path}"
        yield _complete(where, _fill(value), value.name)
    where = f"__ovms_scalerctl_in {path}" if path else "__ovms_scalerctl_at 0"
    for option in verb.options:
        yield _complete(where, _spell(option), option.help)
        for name in option.negations:
            yield _complete(where, f"-l {name.lstrip('-')}", option.help)


def _complete(where: str, what: str, description: str) -> str:
    return f"complete -c ovms-scalerctl -n '{where}' {what} -d {_quote(description)}\n"


def _spell(option: Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.value is None:
        return " ".join(names)
    # "-x": a value, and no file.
    return " ".join([*names, "-r" if option.value.kind is Kind.file else "-x", _fill(option.value)]).rstrip()


def _fill(value: Value) -> str:
    if value.kind is Kind.file:
        return "-F"
    if value.kind is Kind.directory:
        return "-a '(__fish_complete_directories)'"
    if value.kind is Kind.choice:
        return f"-a {_quote(' '.join(value.choices))}"
    return f"-a '(__ovms_scalerctl_names {value.kind})'" if value.kind.is_asked_for else ""


def _quote(text: str) -> str:
    r"""In single quotes, where \ and ' have to be escaped."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
