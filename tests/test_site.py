"""The documentation site builds without warnings and shows every page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain.spec import RewardJobSpec
from docs import site_pages

ROOT = Path(__file__).parents[1]


def test_site_builds_without_warnings_and_has_every_page(tmp_path: Path) -> None:
    """A page outside of the navigation causes a warning too."""
    done = subprocess.run(
        f"{sys.executable} -m sphinx -W --keep-going -q -b dummy docs {tmp_path}".split(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", RewardJobSpec.model_fields)
def test_spec_reference_has_every_field(name: str) -> None:
    assert f"`{name}`" in site_pages.spec_text()


def test_types_in_the_spec_reference_link_to_their_sections() -> None:
    text = site_pages.spec_text()
    links = {link.lower() for link in re.findall(r"\]\(#(\w+)\)", text)}
    headings = {title.lower() for title in re.findall(r"^## `(\w+)`$", text, re.MULTILINE)}
    assert {"lora", "training", "resources"} < links == headings


@pytest.mark.parametrize("command", ["plaudit jobs submit", "plaudit serve", "plaudit keys create"])
def test_command_reference_has_the_commands(command: str) -> None:
    assert f"## `{command}`\n" in site_pages.cli_text()
