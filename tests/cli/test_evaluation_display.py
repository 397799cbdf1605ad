"""What the figures of an evaluation hide is printed with them."""

from __future__ import annotations

from app.cli.evaluation_display import cautions

NOTHING = {"rows": 0, "lines": []}


def test_rows_that_were_left_out_cut_or_trained_on_are_named() -> None:
    model = {
        "left_out": {
            "overlong": {"rows": 70, "lines": [1]},
            "no_tokens": {"rows": 6, "lines": [2]},
        },
        "truncated": {"rows": 3, "lines": [3]},
        "training_overlap": {"rows": 31, "share": 0.31, "lines": [4]},
    }
    assert cautions(model, 100) == [
        "76 of 100 rows are left out (overlong, no_tokens)",
        "3 of 100 rows are cut at max_length",
        "the prompts of 31 of 100 rows are in its training data",
    ]


def test_complete_evaluation_has_no_caution() -> None:
    model = {"left_out": {}, "truncated": NOTHING, "training_overlap": {**NOTHING, "share": 0.0}}
    assert cautions(model, 100) == []
    assert cautions({**model, "training_overlap": None}, 100) == []  # the untrained head
