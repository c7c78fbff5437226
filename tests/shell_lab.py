# SPDX-License-Identifier: Apache-2.0
"""What shells complete, asked of the shells themselves."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctl_screen import screen

SCRIPTS = Path(__file__).parents[1] / "packaging" / "completion"
BASH = SCRIPTS / "bash" / "ovms-scalerctl"
ZSH = SCRIPTS / "zsh" / "_ovms-scalerctl"
FISH = SCRIPTS / "fish" / "ovms-scalerctl.fish"
BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"
END = "\x1e"  # no shell prints it

# Asks for words as the installed program does; whatever else it is called with, it says.
PROGRAM = """\
#!/bin/sh
case $1 in
    names) exec {python} -m ovms_scaler.ctl "$@" ;;
    *) echo "<<$*>>" ;;
esac
"""
# Splits a line as readline does, at the colons and signs of equality, too.
BASH_ASK = """\
source {completion}
source {script}
for line in {lines}; do
    COMP_LINE=$line COMP_POINT=${{#line}}
    eval "COMP_WORDS=($(printf '%s' "$line" | sed "s/[:=]/ '&' /g"))"
    [[ $line == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMPREPLY=()
    _ovms_scalerctl ovms-scalerctl
    printf '%s\\n' "${{COMPREPLY[@]}}" {end}
done
"""
FISH_ASK = """\
source {script}
for line in {lines}
    complete -C $line | string replace -r '\\t.*' ''
    echo {end}
end
"""
# Every match passes compadd, which is told to hand it out; the next key then says that all have been.
ZSH_ASK = """\
PS1=
fpath=({directory} $fpath)
autoload -Uz compinit
compinit -D -u
setopt no_auto_list no_auto_menu
compadd() {{
    local -a found
    [[ " $* " == *' -'[OAD]' '* ]] && {{ builtin compadd "$@"; return }}
    builtin compadd -A found "$@"
    (( $#found )) && print -rl -u {descriptor} -- $found
    builtin compadd "$@"
}}
tell() {{ print -r -u {descriptor} -- {end}; BUFFER=; }}
zle -N tell
bindkey '^T' tell
print ready
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shells:
    """The three, with a program of ours in ``directory``, and the agent's socket."""

    directory: Path
    socket: Path

    def __post_init__(self) -> None:
        program = self.directory / "ovms-scalerctl"
        program.write_text(PROGRAM.format(python=shlex.quote(sys.executable)))
        program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        package = str(Path(__file__).parents[1] / "agent")
        return os.environ | {
            "PATH": f"{self.directory}:{os.environ['PATH']}",
            "PYTHONPATH": package,
            "OVMS_SCALER_SOCKET": str(self.socket),
            "HOME": str(self.directory),
        }

    def complete(self, shell: str, lines: Sequence[str]) -> dict[str, list[str]]:
        """The words that a shell offers at the end of each line, in order."""
        asked = {"bash": self._ask_bash, "zsh": self._ask_zsh, "fish": self._ask_fish}[shell](lines)
        answers = [sorted(set(part.split("\n")) - {""}) for part in asked.split(f"{END}\n")[:-1]]
        return dict(zip(lines, answers, strict=True))

    def type(self, shell: str, lines: Sequence[str]) -> list[str]:
        """What the program is called with for each line that is typed, Tab and Return included."""
        command = {
            "bash": ["bash", "--noprofile", "--rcfile", str(self._write_rc()), "-i"],
            "zsh": ["zsh", "-f", "-i"],
            "fish": ["fish", "--no-config", "--init-command", f"source {FISH}", "--interactive"],
        }[shell]
        with screen(command=command, env=self.environment) as shown:
            if shell == "zsh":
                shown.type(f"source {self._write_zsh(2)}\n")
                shown.read_until("ready")
            called = []
            for line in lines:
                shown.type(line)
                called.append(shown.read_until(">>").rpartition("<<")[2].removesuffix(">>").strip())
            return called

    def _write_rc(self) -> Path:
        file = self.directory / "bashrc"
        file.write_text(f"PS1='$ '\nsource {BASH_COMPLETION}\nsource {BASH}\n")
        return file

    def _write_zsh(self, descriptor: int) -> Path:
        file = self.directory / "zshrc"
        file.write_text(ZSH_ASK.format(directory=ZSH.parent, descriptor=descriptor, end=f"$'{END}'"))
        return file

    def _ask_bash(self, lines: Sequence[str]) -> str:
        script = BASH_ASK.format(
            completion=BASH_COMPLETION, script=BASH, lines=shlex.join(lines), end=f"$'{END}'"
        )
        return self._run(["bash", "--noprofile", "--norc", "-c", script])

    def _ask_fish(self, lines: Sequence[str]) -> str:
        script = FISH_ASK.format(script=FISH, lines=shlex.join(lines), end=f"'{END}'")
        return self._run(["fish", "--no-config", "-c", script])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.directory, text=True, capture_output=True, check=True
        )
        assert done.stderr == ""
        return done.stdout

    def _ask_zsh(self, lines: Sequence[str]) -> str:
        source, sink = os.pipe()
        with (
            os.fdopen(source) as answers,
            screen(command=["zsh", "-f", "-i"], env=self.environment, pass_fds=(sink,)) as shown,
        ):
            shown.type(f"cd {self.directory}; source {self._write_zsh(sink)}\n")
            os.close(sink)
            shown.read_until("ready")
            said = ""
            for line in lines:
                shown.type(f"{line}\t\x14")
                for answer in iter(answers.readline, ""):
                    said += answer
                    if answer == f"{END}\n":
                        break
            return said
