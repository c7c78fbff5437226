# SPDX-License-Identifier: Apache-2.0
"""Takes HTML apart strictly: what browsers would mend is an error here."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

# Elements without an end, section 13.1.2 of the HTML standard. Those of SVG end themselves: <rect/>.
_VOID = frozenset({"link", "meta", "br", "hr", "img", "input"})
# What stands on the same line as what is before and after it.
_INLINE = frozenset({"a", "button", "code", "em", "span", "strong", "time"})


@dataclass(kw_only=True)
class Element:
    """An element with what is in it."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: "list[Element | str]" = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> "Iterator[Element]":
        """It and the elements in it, in their order, that are ``tag`` and have these attributes."""
        named = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
        if tag in ("", self.tag) and named.items() <= self.attributes.items():
            yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.all(tag, **attributes)

    def one(self, tag: str = "", **attributes: str) -> "Element":
        (found,) = self.all(tag, **attributes)
        return found

    def having(self, name: str) -> "list[Element]":
        """It and the elements in it whose ``class`` holds the name."""
        return [one for one in self.all() if name in one.attributes.get("class", "").split()]

    @property
    def text(self) -> str:
        """What is to be read, with single spaces; nothing of what is hidden from screen readers."""
        return " ".join(self._read().split())

    def _read(self) -> str:
        if self.attributes.get("aria-hidden") == "true":
            return ""
        text = "".join(child if isinstance(child, str) else child._read() for child in self.children)
        return text if self.tag in _INLINE else f" {text} "


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element(tag="")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute stands twice in {tag}"
        element = Element(tag=tag, attributes={name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        ended = self.open.pop()
        assert ended.tag == tag, f"{ended.tag} is ended by {tag}"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(text: str) -> Element:
    """Raises AssertionError for what is not ended, or ended in another order than begun."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert len(parser.open) == 1, f"{parser.open[-1].tag} is not ended"
    return parser.open[0]
