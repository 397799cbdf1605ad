"""The fast paths of common rows store, or refuse, exactly what the general path does."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from app.datasets.reading import DatasetReader
from app.datasets.row_errors import InvalidDatasetError
from app.datasets.shapes.assembling import RowAssembler
from app.datasets.shapes.sample import MAX_ROWS
from tests.datasets.invariants import check_stored

#: Values of which each takes another branch of a fast path.
texts = st.sampled_from(
    ["a", "ab", "ab c", " a", "[a]", "", " ", "\0", "x" * 30, "x" * 40, "Human: a\n\nAssistant: b"]
)
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


def row_like(first: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    value = several if first in (RANKED, BENCHMARK) else content
    changed = {name: st.just(old) | value for name, old in first.items()}
    others = {name: value for name, value in extras.items() if name not in first}
    other_file = st.sampled_from([PLAIN, CHAT, RANKED])
    return st.fixed_dictionaries(changed, optional=others) | other_file


#: The first rows, which decide the form of the file, and a few others.
uploads = st.sampled_from([PLAIN, CHAT, RANKED, BENCHMARK, HELPSTEER]).flatmap(
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


@settings(max_examples=500, deadline=None)
@given(uploads)
def test_fast_paths_store_what_the_general_path_stores(rows: list[dict[str, Any]]) -> None:
    fast = outcome(rows)
    init = RowAssembler.__init__

    def without_fast_path(self: RowAssembler, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._plain_at = None

    with patch.object(RowAssembler, "__init__", without_fast_path):
        general = outcome(rows)
    assert general == fast, rows[MAX_ROWS:]
