# SPDX-License-Identifier: Apache-2.0
"""README.md tells the truth, as far as that can be seen without a host."""

import re
from collections.abc import Callable
from pathlib import Path

import gpu_machines
import machines
import pytest
import readme
from command_lines import check_command, find_commands
from ctl_lab import Ctl, write_config

from ovms_scaler.core.lifecycle import State

PLANS = readme.parse_blocks(readme.read_section("What a plan looks like"))
EXAMPLES = list(zip((machines.xeon_6972p_2s, gpu_machines.four_b580), PLANS[::2], PLANS[1::2], strict=True))


@pytest.mark.parametrize(("machine", "config", "shown"), EXAMPLES, ids=["xeon_6972p", "four_b580"])
def test_plans_are_as_shown(
    machine: Callable[[Path], Path], config: readme.Block, shown: readme.Block, ctl: Ctl, tmp_path: Path
) -> None:
    file = write_config(tmp_path, config.text)
    planned = ctl("plan", "--no-diff", "--config", file, "--sysroot", machine(tmp_path / "machine"))
    assert planned.status == 0
    assert planned.out.startswith(shown.text + "\n")


@pytest.mark.parametrize("command", sorted(set(find_commands(readme.README.read_text()))))
def test_commands_exist(command: str) -> None:
    check_command(command)


def test_first_page_marks_what_is_not_typed_and_no_more() -> None:
    blocks = readme.read_first_page()
    assert {block.language for block in blocks} == {"sh"}
    marked = [block.text for block in blocks if block.is_marked]
    assert [
        re.search(r"https://\S+/ovms_\S+\.tar\.gz|/bin/ovms --pull ", text) is not None for text in marked
    ] == [
        True,
        True,
    ]


def test_first_page_serves_the_model_that_it_gets_and_asks_for() -> None:
    model = readme.read_model()
    assert model.path.startswith("/srv/models/")
    assert f'-d \'{{"model": "{model.name}",' in readme.read_section(readme.FIRST_PAGE)


def test_trouble_names_states_that_there_are() -> None:
    rows = readme.read_section("At three in the morning").splitlines()
    named = {found[1] for row in rows if (found := re.match(r"\| `([a-z]+)`", row))}
    troubles = {"loading", "failed", "quarantined", "stopped", "waiting", "drained"}
    assert named == troubles
    assert troubles <= {state.value for state in State}


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", readme.README.read_text()))
def test_links_lead_somewhere(link: str) -> None:
    if link.startswith("#"):
        headings = re.findall(r"^#+ (.+)$", readme.README.read_text(), re.MULTILINE)
        assert link[1:] in {heading.lower().replace(" ", "-") for heading in headings}
    elif not link.startswith("https://"):
        assert (readme.README.parent / link).exists()
