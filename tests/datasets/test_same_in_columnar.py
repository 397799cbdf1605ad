"""The same rows give the same dataset as JSON lines, Parquet and Arrow."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from app.datasets.options import ReadOptions
from app.datasets.reading import DatasetReader
from app.datasets.spooling import SpooledFile
from tests.datasets.invariants import check_stored
from tests.datasets.test_shapes import WRITERS, Drawn

Rows = list[dict[str, Any]]
PLAIN = {"prompt": "p", "chosen": "good", "rejected": "bad"}
SIDES = {"chosen": "good", "rejected": "bad"}
LISTS = {"Prompt": "p", "Chosen": ["good"], "Rejected": ["bad"]}


def stored(blocks: Iterator[bytes], reader: DatasetReader) -> object:
    data = b"".join(blocks)
    check_stored(data, reader.summary)
    return data, reader.summary


def as_jsonl(rows: Rows, options: ReadOptions) -> object:
    reader = DatasetReader(options=options)
    lines = (json.dumps(row).encode() + b"\n" for row in rows)
    return stored(reader.read(lines, "jsonl"), reader)


def as_columns(path: Path, rows: Rows, options: ReadOptions) -> object:
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    table = pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    if path.suffix == ".arrow":
        with pyarrow.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        pyarrow.parquet.write_table(table, path)
    reader = DatasetReader(options=options)
    return stored(reader.read_columnar(SpooledFile(path)), reader)


@pytest.mark.parametrize("name", WRITERS)
def test_shape(name: str, tmp_path: Path) -> None:
    rows = [WRITERS[name](Drawn(f"P{n}é", f"G{n}", f"B{n}")) for n in range(3)]
    read = as_columns(tmp_path / "rows.parquet", rows, ReadOptions())
    assert read == as_jsonl(rows, ReadOptions())


@pytest.mark.parametrize(
    ("part", "column", "row"),
    [
        ("prompt", "topic", SIDES | {"topic": "Capital of France?"}),
        ("prompt", "data_source.text", SIDES | {"data_source": {"text": "Capital of France?"}}),
        ("system", "task", PLAIN | {"task": "Be brief."}),
        ("margin", "score", PLAIN | {"score": 1.5}),
        ("slice", "category", PLAIN | {"category": "maths"}),
        ("id", "question_id", PLAIN | {"question_id": "q1"}),
        ("answers", "n_best", {"prompt": "p", "n_best": ["good", "bad"]}),
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_mapped_column_is_read_although_its_name_is_harmless(
    tmp_path: Path, suffix: str, part: str, column: str, row: dict[str, Any]
) -> None:
    options = ReadOptions(columns={part: column})
    read = as_columns(tmp_path / f"rows.{suffix}", [row] * 2, options)
    assert read == as_jsonl([row] * 2, options)


def test_winner_may_be_the_name_of_a_model(tmp_path: Path) -> None:
    row = {"prompt": "p", "response_a": "bad", "response_b": "good", "winner": "x"}
    rows: Rows = [row | {"model_a": "y", "model_b": "x"}] * 2
    assert as_columns(tmp_path / "rows.parquet", rows, ReadOptions()) == as_jsonl(
        rows, ReadOptions()
    )


def test_columns_in_another_case_are_read_although_their_names_are_harmless(
    tmp_path: Path,
) -> None:
    rows: Rows = [LISTS | {"Subset": "maths", "ID": "q1"}] * 2
    read = as_columns(tmp_path / "rows.parquet", rows, ReadOptions())
    assert read == as_jsonl(rows, ReadOptions())


def test_rows_with_fewer_numbered_responses_than_others_are_read(tmp_path: Path) -> None:
    three = {"prompt": "p", "response_1": "a", "response_2": "b", "response_3": "c"}
    two = {"prompt": "p", "response_1": "a", "response_2": "b", "scores": [1, 2]}
    rows: Rows = [three | {"scores": [1, 2, 3]}, two]
    read = as_columns(tmp_path / "rows.parquet", rows, ReadOptions())
    assert read == as_jsonl(rows, ReadOptions())
