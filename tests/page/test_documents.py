# SPDX-License-Identifier: Apache-2.0
"""The page of every made-up machine is sound HTML that keeps its own policy, whatever the documents hold."""

import base64
import copy
import dataclasses
import hashlib
import itertools
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_lab
import pytest
import world
from markup import Element, parse
from page_lab import Overview
from world import World

import ovms_scaler
from ovms_scaler.core.measures import Looks, measures_document
from ovms_scaler.core.metrics import families_of
from ovms_scaler.core.plan import plan
from ovms_scaler.core.status import status_document
from ovms_scaler.core.tally import Tally
from ovms_scaler.core.traffic import Traffic
from ovms_scaler.core.use import HostUse, NodeUse
from ovms_scaler.page import CONTENT_SECURITY_POLICY, render_fragment, render_page

HOSTILE = "</script></style><img src=x onerror=alert(1)>\"'&amp;<!--{{7*7}}\x00\x1b\u202e\ud800"
OTHERS: tuple[Any, ...] = (
    None,
    7,
    -1.5,
    float("nan"),
    True,
    "text",
    [],
    [None, 7, "text", {}],
    {},
    {"x": [{}]},
)
PAGES = pytest.mark.parametrize("make", page_lab.NAMED.values(), ids=page_lab.NAMED)


@PAGES
def test_page_is_sound(make: Callable[[], Overview]) -> None:
    text = render_page(make())
    assert text.startswith("<!DOCTYPE html>\n")
    page = parse(text)
    ids = [one.attributes["id"] for one in page.all() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in page.all():
        for reference in one.attributes.get("aria-labelledby", "").split():
            assert reference in ids
        link = one.attributes.get("href", "")
        assert not link.startswith("#") or link[1:] in ids
    assert [one.tag for one in page.one("body").children if isinstance(one, Element)] == [
        "a", "svg", "header", "main", "footer", "script",
    ]  # fmt: skip


@PAGES
def test_page_can_be_found_through_by_headings_and_regions(make: Callable[[], Overview]) -> None:
    page = parse(render_page(make()))
    levels = [int(one.tag[1]) for one in page.all() if re.fullmatch("h[1-6]", one.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert all("aria-labelledby" in section.attributes for section in page.all("section"))
    assert all(one.text for one in page.all() if re.fullmatch("h[1-6]", one.tag))
    assert all(head.attributes.get("scope") in ("col", "row") for head in page.all("th"))
    for drawing in page.all(role="img"):
        assert drawing.attributes["aria-label"]
    assert page.one("html").attributes["lang"] == "en"


@PAGES
def test_page_keeps_its_policy(make: Callable[[], Overview]) -> None:
    page = parse(render_page(make()))
    for one in page.all():
        assert "style" not in one.attributes
        assert not [name for name in one.attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            target = one.attributes.get(name, "")
            assert not re.match(r"(?:[a-z]+:)?//", target), f"{one.tag} needs {target}"
            assert ":" not in target or target.startswith("data:image/svg+xml,")
    for tag in ("style", "script"):
        (source,) = page.one(tag).children
        assert isinstance(source, str)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY


def test_table_keeps_its_roles_when_it_is_drawn_as_cards() -> None:
    """Browsers forget them where style.css has other boxes than a table's (not Chromium)."""
    roles = {"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}
    for one in parse(render_fragment(page_lab.sixteen_with_faults())).one("table").all():
        expected = roles.get(one.tag)
        if one.tag == "th":
            expected = {"col": "columnheader", "row": "rowheader"}[one.attributes["scope"]]
        assert one.attributes.get("role") == expected


def test_policy_allows_nothing_else() -> None:
    allowed = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert allowed.pop("style-src").startswith("'sha256-")
    assert allowed.pop("script-src").startswith("'sha256-")
    assert allowed == {
        "default-src": "'none'", "img-src": "data:", "connect-src": "'self'", "base-uri": "'none'",
        "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip


@PAGES
def test_fragment_is_what_the_page_holds(make: Callable[[], Overview]) -> None:
    """Words exist once, and the script finds the part that it is to replace."""
    overview = make()
    fragment = render_fragment(overview)
    assert fragment.rstrip("\n") in render_page(overview)
    (main,) = parse(fragment).children[:1]
    assert isinstance(main, Element)
    assert main.attributes["id"] == "live"
    assert {"data-level", "data-title", "data-at", "data-edition"} <= main.attributes.keys()


def replace(value: Any, change: Callable[[str, Any], Any], key: str = "") -> Any:
    """A copy of a document with the values of its keys changed."""
    if isinstance(value, dict):
        return {name: change(name, replace(one, change, name)) for name, one in value.items()}
    return [replace(one, change, key) for one in value] if isinstance(value, list) else value


def set_everywhere(document: Any, name: str, value: Any) -> Any:
    return replace(document, lambda key, own: value if key == name else own)


def test_no_text_is_taken_for_markup() -> None:
    """Every text of the documents stands where it stood, as text."""
    overview = page_lab.sixteen_with_faults()

    def harm(_key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [one + HOSTILE if isinstance(one, str) else one for one in value]
        return value + HOSTILE if isinstance(value, str) else value

    text = render_page(replace(overview, harm))
    text.encode()
    page = parse(text)
    assert not list(page.all("img"))
    assert len(list(page.all("script"))) == len(list(page.all("style"))) == 1
    assert "49" not in page.one("h1").text
    assert not re.search("[\x00\x1b\u202e\ud800]", text)
    assert "</script></style><img src=x onerror=alert(1)>\"'&amp;<!--{{7*7}}" in page.one("h1").text


def names_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("name", sorted(names_in(page_lab.smallest())))
def test_nothing_has_to_be_there(name: str) -> None:
    """Agents of other versions leave keys out, and what is not known is null."""
    overview = page_lab.smallest()

    def leave_out(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: leave_out(one) for key, one in value.items() if key != name}
        return [leave_out(one) for one in value] if isinstance(value, list) else value

    parse(render_fragment(leave_out(overview)))
    for other in OTHERS:
        parse(render_fragment(set_everywhere(overview, name, other)))


def test_what_is_unknown_is_never_shown_as_none_at_all() -> None:
    overview = page_lab.six()
    known = ("id", "address", "at", "window_sec", "front", "instances", "nodes", "gpus")
    unknown = replace(overview["measures"], lambda key, value: value if key in known else None)
    page = parse(render_page(overview | {"measures": unknown}))
    figures = page.having("figures")[0]
    assert {one.text for one in figures.all("dd")} <= {
        "unknown",
        "median",
        "in all",
        "by reloads, in all",
        "0",
    }
    # The proxy itself has counted what it cut.
    assert figures.text.count("unknown") == 6
    rows = list(page.one("table").all("tr"))[1:]
    assert [row.text.count("unknown") for row in rows] == [6] * 6
    assert page.having("machine")[0].text.count("unknown") == 2 + 4
    assert not list(page.having("machine")[0].all("rect"))


def test_rendering_leaves_the_documents_as_they_are() -> None:
    overview = page_lab.sixteen_with_faults()
    before = copy.deepcopy(overview)
    render_page(overview)
    assert overview == before


def test_templates_are_installed_with_the_package() -> None:
    """setuptools installs of other files what its patterns match."""
    package = Path(ovms_scaler.__file__).parent
    project = tomllib.loads((package.parents[1] / "pyproject.toml").read_text())
    (patterns,) = project["tool"]["setuptools"]["package-data"].values()
    installed = {found for pattern in patterns for found in package.glob(pattern)}
    others = {one for one in package.rglob("*") if one.is_file() and one.suffix not in (".py", ".pyc")}
    assert others == installed


def test_no_card_is_called_away_while_the_machine_is_not_known() -> None:
    warning = "sysfs or a card does not answer"
    page = parse(render_fragment(page_lab.six() | {"topology": {"warnings": [warning]}}))
    assert not page.having("card")
    assert "The agent has not seen the machine yet." in page.having("machine")[0].text
    assert warning in page.having("warnings")[0].text


def test_made_up_documents_have_the_keys_of_real_ones() -> None:
    """Else these tests would be about a page that nobody sees."""
    made, host, target = page_lab.smallest(), World(), world.target()
    host.settle(target)
    facts = host.facts(target)
    planned = plan(target, facts)
    status = status_document(
        target, facts, planned, {}, config_file="", config_error="", problems=(), observed_sec=0.0
    )
    for path in ((), ("proxy",), ("config",), ("orders",), ("instances", 0), ("pools", 0)):
        assert find(made["status"], path).keys() == find(status, path).keys()
    instance = dataclasses.replace(target.instances[0], gpus=("0000:03:00.0",))
    looks = Looks(host=[HostUse(at_sec=0.0, nodes=(NodeUse(id=0),))])
    measures = measures_document([instance], Traffic(0.0), looks, at=0.0, now_sec=0.0)
    shown = page_lab.six()["measures"]
    shown["instances"] = [one for one in shown["instances"] if one["gpus"]]
    for part in ((), ("front",), ("instances", 0), ("instances", 0, "gpus", 0), ("nodes", 0), ("gpus", 0)):
        assert find(shown, part).keys() == find(measures, part).keys()


@pytest.mark.parametrize("make", [one for one in page_lab.NAMED.values() if one is not page_lab.nothing])
def test_made_up_documents_can_be_made_metrics_of(make: Callable[[], Overview]) -> None:
    made = make()
    families_of(made["status"], made["measures"], Tally(), version="0.1.0", now_sec=0.0)


def find(document: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
    for step in path:
        document = document[step]
    found: dict[str, Any] = document
    return found
