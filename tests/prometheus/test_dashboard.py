# SPDX-License-Identifier: Apache-2.0
"""The dashboard's file: what Grafana demands of one, and what people do.

It was held against the types of @grafana/schema 11.6 and 13.2 by TypeScript's compiler; no test draws it.
"""

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "packaging/grafana/ovms-scaler.json"
DASHBOARD: Mapping[str, Any] = json.loads(FILE.read_text())
PANELS: list[Mapping[str, Any]] = DASHBOARD["panels"]
KINDS = {"row", "state-timeline", "stat", "table", "timeseries"}
# Ids of Grafana (valueFormats/categories.ts of @grafana/data); it shows others, as cores, as they are.
UNITS = {"bytes", "cores", "percentunit", "reqps", "s", "short"}
CHOSEN = {"type": "prometheus", "uid": "${datasource}"}


def read_targets() -> list[Mapping[str, Any]]:
    return [target for panel in PANELS if panel["type"] != "row" for target in panel["targets"]]


def test_it_can_be_imported_anywhere() -> None:
    """No id of a database, no data source of whoever made it."""
    assert "id" not in DASHBOARD
    assert (DASHBOARD["uid"], DASHBOARD["schemaVersion"] >= 36) == ("ovms-scaler", True)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", DASHBOARD["uid"])
    assert all(target["datasource"] == CHOSEN for target in read_targets())
    assert all(panel["datasource"] == CHOSEN for panel in PANELS if panel["type"] != "row")


def test_variables() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "server", "instance"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    for name in ("server", "instance"):
        # Everything, and also series without that label.
        assert (variables[name]["includeAll"], variables[name]["allValue"]) == (True, ".*")
        assert variables[name]["multi"]
    used = set(re.findall(r"\$(\w+)", json.dumps([target["expr"] for target in read_targets()])))
    assert used == {"server", "instance", "__rate_interval"}


def test_every_query_is_of_the_servers_that_are_chosen() -> None:
    for target in read_targets():
        selected = re.findall(r"ovms_\w+(\{[^}]*\})?", target["expr"])
        assert selected
        assert all('server=~"$server"' in labels for labels in selected), target["expr"]


def test_panels_are_of_kinds_that_grafana_has() -> None:
    assert {panel["type"] for panel in PANELS} == KINDS
    units = {
        panel["fieldConfig"]["defaults"].get("unit", "short") for panel in PANELS if panel["type"] != "row"
    }
    assert units <= UNITS


def test_panels_have_an_id_and_a_title_each() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    assert all(panel["title"] for panel in PANELS)
    for panel in PANELS:
        if panel["type"] != "row":
            references = [target["refId"] for target in panel["targets"]]
            assert references == list("ABCDEF"[: len(references)])


def test_panels_fill_the_grid_and_do_not_overlap() -> None:
    """24 columns; rows are one high and take all of them."""
    cells: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["y"], place["y"] + place["h"]), range(place["x"], place["x"] + place["w"])
        ):
            assert cell not in cells, f"{panel['title']} is on {cells.get(cell)}"
            cells[cell] = panel["title"]
    heights = {y for y, _ in cells}
    assert len(cells) == 24 * len(heights)
    assert heights == set(range(len(heights)))


def test_rows() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert [title.split()[0].rstrip(":") for title in rows] == [
        *("Front", "Instances", "NUMA", "GPUs", "Engines", "Agent")
    ]
    assert all(
        panel["panels"] == [] and not panel["collapsed"] for panel in PANELS if panel["type"] == "row"
    )


def test_the_file_is_written_as_it_was_read() -> None:
    """So that a change is a change of few lines."""
    assert FILE.read_text() == json.dumps(DASHBOARD, indent=2, ensure_ascii=False) + "\n"
