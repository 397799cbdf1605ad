"""The documentation site builds without warnings and shows every page."""

from __future__ import annotations

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


@pytest.mark.parametrize("command", ["plaudit jobs submit", "plaudit serve", "plaudit keys create"])
def test_command_reference_has_the_commands(command: str) -> None:
    assert f"## `{command}`\n" in site_pages.cli_text()
