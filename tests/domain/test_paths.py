"""Containment of module paths."""

from __future__ import annotations

import pytest

from app.domain.paths import is_inside, outermost


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.score", True),
        ("model.score.dense", True),
        ("model.scores", False),
        ("model", False),
        ("other.model.score", False),
        ("", False),
    ],
)
def test_path_is_inside_its_owner_and_the_owners_children(path: str, expected: bool) -> None:
    assert is_inside(path, ["pooler", "model.score"]) is expected


def test_outermost_paths_contain_all_others() -> None:
    paths = ["model.score.dense", "model.score", "model.scores", "classifier", "model.score"]
    assert outermost(paths) == ["classifier", "model.score", "model.scores"]
