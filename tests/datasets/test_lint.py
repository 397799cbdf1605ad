"""Data problems that ruin a reward model and are visible in the upload."""

from __future__ import annotations

from typing import Any

import pytest

from app.datasets.options import ReadOptions
from app.domain.warnings import WARNING_ADVICE, WarningCode
from tests.datasets.test_shapes import read


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def conversations(mine: str, theirs: str, **more: Any) -> dict[str, Any]:
    """Return two conversations without a separate prompt."""
    sides = {"chosen": [user(mine), assistant("It is 4.")]}
    return {**sides, "rejected": [user(theirs), assistant("It is 5.")], **more}


SAME = conversations("AAA", "AAA")
DIFFERENT = conversations("AAA", "BBB")
SYSTEM = {"role": "system", "content": "Be brief."}
IGNORED = ReadOptions(ignore_columns=frozenset({"prompt", "note"}))


@pytest.mark.parametrize(
    ("rows", "options", "code", "lines", "says"),
    [
        ([SAME, DIFFERENT], None, "prompts_differ", [2], "in 1 of 2 rows"),
        ([DIFFERENT | {"source": "x"}] * 2, None, "prompts_differ", [1, 2], "in 2 of 2 rows"),
        # A copy of one side is ignored without a warning, because the pair contains its text.
        (
            [DIFFERENT | {"messages": [user("AAA"), assistant("It is 4.")]}],
            None,
            "prompt_unused",
            [1],
            'is not used: "messages"',
        ),
        # A prompt that is in neither reply is rejected, unless ignore_columns names it.
        ([DIFFERENT | {"prompt": "CCC"}] * 3, IGNORED, "prompt_unused", [1, 2, 3], '"prompt"'),
        (
            [
                {
                    "chosen": [SYSTEM, user("AAA"), assistant("It is 4.")],
                    "rejected": [SYSTEM, user("BBB"), assistant("It is 5.")],
                    "prompt": "CCC",
                }
            ],
            IGNORED,
            "prompt_unused",
            [1],
            "in 1 of 1 rows",
        ),
        ([DIFFERENT | {"note": "n"}], IGNORED, "prompts_differ", [1], "in 1 of 1"),
        ([DIFFERENT | {"prompt_id": "7"}], None, "prompts_differ", [1], "in 1 of 1"),
        ([DIFFERENT | {"task": "x"}], None, "prompts_differ", [1], "in 1 of 1"),
    ],
)
def test_prompts_that_differ_are_told(
    rows: list[dict[str, Any]], options: ReadOptions | None, code: str, lines: list[int], says: str
) -> None:
    _, summary = read(rows, options)
    found = [w for w in summary.warnings if w.code != "columns_ignored"]
    assert [(w.code, w.lines) for w in found] == [(code, lines)]
    assert says in found[0].message
    assert WARNING_ADVICE[WarningCode(code)]


@pytest.mark.parametrize(
    ("row", "options"),
    [
        (SAME, None),
        (SAME | {"prompt": "CCC"}, IGNORED),
        (SAME | {"messages": [user("AAA"), assistant("It is 4.")]}, None),
        ({"prompt": "AAA", "chosen": "It is 4.", "rejected": "It is 5."}, None),
    ],
)
def test_prompts_that_are_the_same_are_not(
    row: dict[str, Any], options: ReadOptions | None
) -> None:
    _, summary = read([row] * 3, options)
    assert [w.code for w in summary.warnings if w.code != "columns_ignored"] == []


def test_difference_that_templates_strip_is_told() -> None:
    row = {"prompt": "q", "chosen": "It is 4.", "rejected": "It is 4. "}
    thought = row | {"chosen": "<think>2+2</think>It is 4.", "rejected": "It is 4."}
    plain = row | {"rejected": "It is 5."}
    _, summary = read([row, plain, thought])
    (warning,) = summary.warnings
    assert (warning.code, warning.lines) == ("difference_stripped", [1, 3])


def test_side_that_always_has_the_same_source_is_told() -> None:
    rows = [
        {
            "prompt": "q",
            "chosen": f"good {n}",
            "chosen_model": "large",
            "rejected": f"bad {n}",
            "rejected_model": "small",
        }
        for n in range(4)
    ]
    assert [w.code for w in read(rows)[1].warnings] == ["sources_one_sided"]
    mixed = [*rows, rows[0] | {"chosen_model": "small", "rejected_model": "large"}]
    assert read(mixed)[1].warnings == []
