# SPDX-License-Identifier: Apache-2.0
"""The verbs with their options and arguments, as a shell has to know them."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import click

_HELP = "Show what it does, with an example"


class Kind(StrEnum):
    """What a word on the command line stands for; the last ones are known on the host only."""

    text = "text"
    choice = "choice"
    file = "file"
    directory = "directory"
    names = "names"
    instances = "instances"
    pools = "pools"
    releases = "releases"
    checks = "checks"

    @property
    def is_asked_for(self) -> bool:
        return self in _ASKED


_ASKED = (Kind.names, Kind.instances, Kind.pools, Kind.releases, Kind.checks)
_METAVARS = {
    "INSTANCE|POOL": Kind.names,
    "INSTANCE": Kind.instances,
    "POOL": Kind.pools,
    "VERSION": Kind.releases,
    "CHECK": Kind.checks,
    "DIR": Kind.directory,
    "FILE": Kind.file,
    "PATH": Kind.file,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What is given, in so many words: what it is called, what it is, and the ``choices`` of a choice."""

    name: str
    kind: Kind
    words: int = 1
    choices: tuple[str, ...] = ()
    is_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option by all of its ``names``; ``negations`` undo it. A flag has no ``value``."""

    names: tuple[str, ...]
    help: str
    negations: tuple[str, ...] = ()
    value: Value | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A verb, or a group of ``verbs``; ``path`` are the words that lead to it, none for the program."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...] = ()
    verbs: tuple["Verb", ...] = ()

    @property
    def name(self) -> str:
        return self.path[-1]

    def walk(self) -> Iterator["Verb"]:
        """The verb itself, then all below it."""
        yield self
        for verb in self.verbs:
            yield from verb.walk()


def read_tree(command: click.Command, path: tuple[str, ...] = ()) -> Verb:
    """What is not hidden of a command and of those below it."""
    below = command.commands.items() if isinstance(command, click.Group) else ()
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    return Verb(
        path=path,
        help=command.get_short_help_str(limit=200).rstrip("."),
        options=(*map(_read_option, options), Option(names=("-h", "--help"), help=_HELP)),
        arguments=tuple(_read_value(one) for one in command.params if isinstance(one, click.Argument)),
        verbs=tuple(read_tree(verb, (*path, name)) for name, verb in below if not verb.hidden),
    )


def _read_option(option: click.Option) -> Option:
    return Option(
        names=tuple(option.opts),
        # Defaults are for who reads all of it.
        help=(option.help or "").partition("[default:")[0].rstrip(". "),
        negations=tuple(option.secondary_opts),
        value=None if option.is_flag or option.count else _read_value(option),
    )


def _read_value(parameter: click.Parameter) -> Value:
    name = (parameter.metavar or parameter.name or "").strip("[].")
    choices = tuple(map(str, parameter.type.choices)) if isinstance(parameter.type, click.Choice) else ()
    is_repeated = parameter.nargs == -1 or bool(getattr(parameter, "multiple", False))
    return Value(
        name=name,
        kind=_read_kind(parameter, name),
        words=max(parameter.nargs, 1),
        choices=choices,
        is_repeated=is_repeated,
    )


def _read_kind(parameter: click.Parameter, name: str) -> Kind:
    match parameter.type:
        case click.Choice():
            return Kind.choice
        case click.Path() as path:
            return Kind.file if path.file_okay and name != "DIR" else Kind.directory
        case _:
            return _METAVARS.get(name, Kind.text)
