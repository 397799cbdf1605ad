"""No part of a pair is lost in silence: it is stored, or the upload is refused, or it is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.datasets.canonical import DatasetSummary
from app.datasets.options import ReadOptions
from app.datasets.reading import DatasetReader
from app.datasets.row_errors import InvalidDatasetError, RowProblem
from app.datasets.shapes.sample import MAX_ROWS
from tests.datasets.invariants import check_stored

Rows = list[dict[str, Any]]


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


PLAIN = {"prompt": "p", "chosen": "good", "rejected": "bad"}
CHAT = {
    "prompt": [user("p")],
    "chosen": [assistant("good")],
    "rejected": [assistant("bad")],
}


def read(rows: Rows, options: ReadOptions | None = None) -> tuple[Rows, DatasetSummary]:
    reader = DatasetReader(options=options)
    lines = (json.dumps(row).encode() + b"\n" for row in rows)
    return check_stored(b"".join(reader.read(lines, "jsonl")), reader.summary), reader.summary


def refusal(rows: Rows, options: ReadOptions | None = None) -> RowProblem:
    with pytest.raises(InvalidDatasetError) as caught:
        read(rows, options)
    return caught.value.rows[0]


# --- a column that stored datasets have too -----------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (CHAT | {"chosen": "good", "rejected": "bad"}, "pairs"),
        (PLAIN | {"system": "Be brief."}, "pairs"),
        ({"chosen": "Human: p\n\nAssistant: a", "rejected": "Human: p\n\nAssistant: b"}, "hh_rlhf"),
    ],
)
def test_file_with_line_numbers_is_read_as_without(row: dict[str, Any], shape: str) -> None:
    rows, summary = read([row | {"line": number} for number in (1, 2)])
    assert rows == read([row] * 2)[0]
    assert summary.shape == shape
    assert summary.ignored_columns == ["line"]


def test_common_messages_are_the_prompt_in_files_with_line_numbers() -> None:
    row = {"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]}
    assert read([row | {"line": number} for number in (1, 2)])[0] == read([row] * 2)[0]
    later = [CHAT | {"line": number} for number in range(MAX_ROWS)] + [row | {"line": 99}]
    assert read(later)[0][-1]["prompt"] == [{"content": "p", "role": "user"}]


def test_text_in_a_column_called_line_is_not_lost() -> None:
    found = refusal([PLAIN | {"line": f"To be {number}"} for number in (1, 2)])
    assert (found.code, found.column) == ("unused_column", "line")
