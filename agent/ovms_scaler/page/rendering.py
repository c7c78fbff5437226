# SPDX-License-Identifier: Apache-2.0
"""Makes HTML of an overview, and names the style and the script that browsers may run with it."""

import base64
import hashlib
import unicodedata
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ovms_scaler.page.reading import Document
from ovms_scaler.page.view import read_view

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
_SCRIPT = (_TEMPLATES / "script.js").read_text(encoding="utf-8")
_FRAME = (_TEMPLATES / "page.html").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source expression of Content Security Policy Level 3, section 2.3.1."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{_hash(_STYLE)}'",
        f"script-src 'sha256-{_hash(_SCRIPT)}'",
        # The icon, which else browsers ask for at /favicon.ico.
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
# A page that was loaded before the agent was upgraded would put new words in its old style.
_EDITION = _hash(_STYLE + _SCRIPT + _FRAME)[:12]


def render_page(overview: Document) -> str:
    """The whole page; it needs nothing from elsewhere."""
    template = _environment().get_template("page.html")
    return template.render(view=read_view(overview), style=_STYLE, script=_SCRIPT, edition=_EDITION)


def render_fragment(overview: Document) -> str:
    """The part that changes, which the page's script asks for again and again."""
    return _environment().get_template("live.html").render(view=read_view(overview), edition=_EDITION)


@cache
def _environment() -> "jinja2.Environment":
    # Only now: an agent at whose page nobody looks has no need of it.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def _finalize(value: object) -> object:
    """What is put into the page: text that browsers take, and that turns nothing after it around."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(map(_visible, value))


def _visible(character: str) -> str:
    is_plain = character in "\t\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    return character if is_plain else "\N{REPLACEMENT CHARACTER}"
