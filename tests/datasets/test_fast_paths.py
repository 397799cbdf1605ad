"""Fast paths read, store or refuse exactly what the general paths do."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.datasets.byte_streams import split_lines
from app.datasets.json_rows import json_row, json_value
from app.datasets.reading import DatasetReader
from app.datasets.row_errors import InvalidDatasetError, RowError
from app.datasets.shapes.assembling import RowAssembler
from app.datasets.shapes.sample import MAX_ROWS
from tests.datasets.invariants import check_stored

#: Values of which each takes another branch of a fast path.
texts = st.sampled_from(
    [
        "a", "ab", "ab c", " a", "[a]", "", " ", "\0", "x" * 30, "x" * 40,
        "Human: a\n\nAssistant: b", "Human: a\n\nAssistant: c", "Human: a",
        "Human:\n\nAssistant: a",
        "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
        "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: \0",
        "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e\n\nHuman: f",
        "\n\nAssistant: a",
    ]
)  # fmt: skip
roles = st.sampled_from(["user", "assistant", "system", "tool"])
messages = st.lists(st.fixed_dictionaries({"role": roles, "content": texts}), max_size=3)
content = texts | messages | st.none() | st.integers(0, 1)
several = st.lists(texts | messages | st.none(), max_size=3) | content
extras = {
    "system": texts,
    "margin": st.floats(0, 1),
    "subset": texts,
    "input": texts,
    "tools": st.just([{"name": "f"}]),
    "history": st.lists(st.tuples(texts, texts), max_size=1),
}
PLAIN: dict[str, Any] = {"prompt": "p", "chosen": "good", "rejected": "bad"}
CHAT = {
    "prompt": [{"role": "user", "content": "p"}],
    "chosen": [{"role": "assistant", "content": "good"}],
    "rejected": [{"role": "assistant", "content": "bad"}],
}
RANKED = PLAIN | {"chosen": ["good"], "rejected": ["bad", "worse"]}
BENCHMARK = RANKED | {"subset": "s"}
HELPSTEER = {
    "context": CHAT["prompt"],
    "response1": "good",
    "response2": "bad",
    "overall_preference": -1,
}


ORCA = {"system": "s", "question": "p", "chosen": "good", "rejected": "bad"}
LABELLED = {"prompt": "p", "response_a": "good", "response_b": "bad", "winner": "b"}
TOLD = {side: CHAT["prompt"] + CHAT[side] for side in ("chosen", "rejected")}
DIALOGUES = {
    side: f"\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: {side}"
    for side in ("chosen", "rejected")
}
FIRST: list[dict[str, Any]] = [
    PLAIN, CHAT, RANKED, BENCHMARK, HELPSTEER, ORCA, LABELLED, TOLD, PLAIN | TOLD, DIALOGUES,
]  # fmt: skip


def row_like(first: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    value = several if first in (RANKED, BENCHMARK) else content
    changed = {name: st.just(old) | value for name, old in first.items()}
    others = {name: value for name, value in extras.items() if name not in first}
    other_file = st.sampled_from([PLAIN, CHAT, RANKED, TOLD, DIALOGUES])
    return st.fixed_dictionaries(changed, optional=others) | other_file


#: The first rows, which decide the form of the file, and a few others.
uploads = st.sampled_from(FIRST).flatmap(
    lambda first: st.lists(row_like(first), max_size=3).map(lambda rows: [first] * MAX_ROWS + rows)
)


def outcome(rows: list[dict[str, Any]]) -> object:
    """Return what is stored, or the bad lines of a refused upload.

    If a line has several problems, the paths may name different ones.
    """
    reader = DatasetReader()
    try:
        data = b"".join(reader.read_rows(enumerate(rows, 1), is_untyped=False))
        check_stored(data, reader.summary)
        return data, reader.summary
    except InvalidDatasetError as error:
        return [problem.line for problem in error.rows]


@settings(max_examples=800, deadline=None)
@given(uploads)
def test_fast_paths_store_what_the_general_path_stores(rows: list[dict[str, Any]]) -> None:
    fast = outcome(rows)
    init = RowAssembler.__init__

    def without_fast_path(self: RowAssembler, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._plain = self._plain_at = None

    with patch.object(RowAssembler, "__init__", without_fast_path):
        general = outcome(rows)
    assert general == fast, rows[MAX_ROWS:]


# --- lines and JSON -----------------------------------------------------------------------------

strings = st.text(st.sampled_from('a"\\\\/\n\t\x01\x7fé\u2028\U0001f600'), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=6,
)
#: Arguments of json.dumps, of which each writes other spaces or escapes.
styles = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "separators": st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
    }
)


def written(members: list[tuple[str, Any]], style: dict[str, Any]) -> str:
    """Return an object, in which a key may appear twice, as JSON."""
    comma, colon = style["separators"]
    parts = (json.dumps(key, **style) + colon + json.dumps(v, **style) for key, v in members)
    return f"{{{comma.join(parts)}}}"


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(strings, values), max_size=4), st.booleans(), styles)
def test_fast_parser_reads_what_the_strict_parser_reads(
    members: list[tuple[str, Any]], is_nested: bool, style: dict[str, Any]
) -> None:
    text = written(members, style)
    if is_nested:
        text = f'{{"a"{style["separators"][1]}[{text}]}}'
    try:
        strict: object = json_value(text)
    except RowError as error:
        strict = error.code
    try:
        read: object = json_row(text.encode())
    except RowError as error:
        read = error.code
    assert read == strict, text


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":"", "a":"\\u0022\\u0022"}',
        b'{"a": 1, "a":"\\u0022x"}',
        b'{"a": 1,"b":2,"c":3,"d":4,"a":1}',
        b'{"a":[{"b":1,"\\u0062":1}]}',
    ],
)
def test_key_is_found_twice_however_its_line_is_written(line: bytes) -> None:
    with pytest.raises(RowError, match="twice"):
        json_row(line)


@given(
    st.lists(st.sampled_from([b"", b"a", b"b" * 600, b"c" * 2000]), max_size=8),
    st.integers(1, 3000),
)
def test_lines_are_those_of_the_whole_file(lines: list[bytes], size: int) -> None:
    data = b"\n".join(lines)
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert list(split_lines(chunks)) == expected
