# SPDX-License-Identifier: Apache-2.0
"""The few rules of systemd.syntax(7) and systemd.service(5) that drop-ins rely on, to read them back by."""

# "Quoting" in systemd.syntax(7), "Supported escapes"; numeric ones stand beside it.
ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " ",
    "\\": "\\", '"': '"', "'": "'",
}  # fmt: skip
WHITESPACE = " \t\n\r"


class SyntaxRuleError(AssertionError):
    """systemd would refuse or misread the text."""


def parse_exec_start(text: str) -> tuple[str, ...]:
    """What is executed for the last ExecStart=: the program's path, then its arguments."""
    program, *arguments = (parse_specifiers(word) for word in parse_words(last(text, "ExecStart")))
    if not program.startswith("/"):
        raise SyntaxRuleError(f"{program!r} is not an absolute path")
    return (program, *map(parse_dollars, arguments))


def parse_environment(text: str) -> dict[str, str]:
    """All variables of all Environment= lines."""
    words = [word for value in values(text, "Environment") for word in parse_words(value)]
    pairs = (parse_specifiers(word).partition("=") for word in words)
    return {name: value for name, _, value in pairs}


def values(text: str, name: str) -> list[str]:
    """The values of a setting, with continued lines joined by a space and comments between them left out."""
    found: list[str] = []
    joined = ""
    for line in text.removesuffix("\n").split("\n"):
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            joined += line.removesuffix("\\") + " "
            continue
        key, _, value = (joined + line).partition("=")
        joined = ""
        if key == name:
            found.append(value.strip(WHITESPACE))
    return found


def last(text: str, name: str) -> str:
    *before, value = values(text, name)
    if before and "" not in before:
        raise SyntaxRuleError(f"{name}= is not reset before it is given")
    return value


def parse_words(text: str) -> list[str]:
    """Words of a command line: separated by space, quoted as a whole or in part, with C-style escapes."""
    words: list[str] = []
    rest = text
    while rest := rest.lstrip(WHITESPACE):
        if rest == ";" or rest.startswith(("; ", ";\t")):
            raise SyntaxRuleError("a lone ';' ends the command")
        word, rest = _first_word(rest)
        words.append(word)
    return words


def _first_word(text: str) -> tuple[str, str]:
    word, quote, index = "", "", 0
    while index < len(text):
        char = text[index]
        if char == "\\":
            part, index = _escape(text, index + 1)
            word += part
            continue
        index += 1
        if quote:
            quote, word = ("", word) if char == quote else (quote, word + char)
        elif char in "\"'":
            quote = char
        elif char in WHITESPACE:
            return word, text[index:]
        else:
            word += char
    if quote:
        raise SyntaxRuleError(f"unbalanced quotes in {text!r}")
    return word, ""


def _escape(text: str, index: int) -> tuple[str, int]:
    kind = text[index : index + 1]
    digits = {"x": 2, "u": 4, "U": 8}.get(kind)
    if digits is not None:
        return chr(int(text[index + 1 : index + 1 + digits], 16)), index + 1 + digits
    if kind in ESCAPES and kind:
        return ESCAPES[kind], index + 1
    raise SyntaxRuleError(f"unknown escape \\{kind} in {text!r}")


def parse_specifiers(word: str) -> str:
    """The word with %% as %; a specifier would put in something that was not meant."""
    if "%" in word.replace("%%", ""):
        raise SyntaxRuleError(f"specifier in {word!r}")
    return word.replace("%%", "%")


def parse_dollars(word: str) -> str:
    """An argument with $$ as $; a variable would put in something that was not meant."""
    if "$" in word.replace("$$", ""):
        raise SyntaxRuleError(f"variable in {word!r}")
    return word.replace("$$", "$")
