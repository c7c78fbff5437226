# SPDX-License-Identifier: Apache-2.0
"""The man pages of the package as people read them, with the man, groff and whatis of each release."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import deb, image
from lab.host import Host
from manual import PAGES, read_page

PAGE_NAMES = [page.name.removesuffix(".md") for page in PAGES]
TREE = "/tmp/package/usr/share/man"
COLUMNS = 80


@pytest.fixture(scope="module")
def reader(release: str, debs: list[Path]) -> Iterator[Host]:
    """A host with man, and the package unpacked beside it."""
    directory = deb.output_directory(release)
    builder = image.build(release, image.Kind.BUILD)
    with Host.boot(builder, binds={"/output": directory}) as host:
        for package in debs:
            host.run("dpkg-deb", "--extract", f"/output/{package.name}", "/tmp/package")
        host.run("mandb", "--create", "--quiet", TREE)
        yield host


def locate(page: str) -> str:
    section = page.rpartition(".")[2]
    return f"{TREE}/man{section}/{page}.gz"


def read_names(page: str) -> list[str]:
    """What stands before the dash below NAME."""
    text = read_page(f"{page}.md").replace("`@`{=man}", "@").partition("# NAME\n\n")[2]
    return [name.strip() for name in text.partition(" - ")[0].split(",")]


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_page_renders_without_a_warning_and_fits_the_screen(reader: Host, page: str) -> None:
    settings = {"MANWIDTH": str(COLUMNS), "MAN_KEEP_FORMATTING": "", "GROFF_NO_SGR": "1"}
    done = reader.run("man", "--warnings=w", "--local-file", locate(page), env=settings)
    assert done.stderr == ""
    lines = re.sub(r".\x08", "", done.stdout).splitlines()
    assert len(lines) > 40
    assert [line for line in lines if len(line) > COLUMNS] == []
    # What pandoc makes of "--" where it is not told that it is code.
    assert [line for line in lines if "\N{EN DASH}" in line or "\N{HORIZONTAL ELLIPSIS}" in line] == []
    assert reader.script(f"zcat {locate(page)!r} | groff -ww -man -Tutf8 -z 2>&1") == ""


@pytest.mark.parametrize("page", PAGE_NAMES)
def test_page_is_found_by_each_of_its_names(reader: Host, page: str) -> None:
    section = page.rpartition(".")[2]
    for name in read_names(page):
        found = reader.run("whatis", "--manpath", TREE, "--long", name).stdout
        assert found.startswith(f"{name} ({section}) ")
        assert reader.run("man", "--manpath", TREE, "--where", name).stdout
    assert read_names(page)[0] in reader.run("apropos", "--manpath", TREE, "OpenVINO").stdout
