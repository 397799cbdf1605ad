"""Generate the parts of docs/data.md that come from the code: shapes, names, mapping."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from app.datasets.options import MAPPABLE
from app.datasets.reading import DatasetReader
from app.datasets.shapes.labels import SIDE_NAMES
from app.datasets.shapes.shape import Shape
from app.datasets.shapes.table import SHAPES
from app.datasets.unused import DESCRIPTIVE, HARMLESS, MEANINGFUL, MEDIA

PAGE = Path(__file__).parent / "data.md"
BEGIN, END = "<!-- shapes: `make openapi` -->\n", "<!-- end of shapes -->\n"
_WIDTH = 115
_PARTS = {
    "prompt": "text or messages before the reply",
    "system": "the system text, which becomes the first message",
    "history": 'earlier turns: messages, or `[["user text", "assistant text"], …]`',
    "input": "text that is appended to the prompt after a newline",
    "chosen": "the better reply, or a list of better replies",
    "rejected": "the worse reply, or a list of worse replies",
    "response_a": "one of two replies",
    "response_b": "the other reply",
    "label": "the value that names the better reply",
    "score_a": "a number for `response_a`, instead of `label`; the reply with the higher one wins",
    "score_b": "the same for `response_b`",
    "answers": 'replies, best first; or objects: `{"answer": "…", "rank": 1}`, or with `score`',
    "scores": "a list of numbers, one for each of `answers`; higher is better",
    "ranks": "the same with ranks; lower is better",
    "margin": "how much better the chosen reply is: a number in all rows; it may be negative",
    "slice": "a label of up to 64 characters; metrics are reported for each slice",
    "id": "a label of the row; some [benchmarks](judging.md) need it",
    "tools": "tool descriptions for the chat template",
    "chat_template_kwargs": "variables for the chat template",
}


_HARMLESS = (
    "Harmless names in any shape (`*` matches any characters; case is ignored, and spaces and "
    "hyphens\nequal underscores):"
)
_SHAPES = """\
## Recognised shapes

The first shape in this table that fits the first rows is used. Column names may be in upper case,
with spaces or hyphens instead of underscores: `Response A` is `response_a`. Messages, and lists in
columns such as `responses`, may be JSON text if most rows have them so.
Every shape also reads the columns `system`, `history`, `tools`, `chat_template_kwargs`, `margin`
and `slice`, unless the shape uses these names for something else. The page
`/formats` of the service shows the same table.

| shape | description | seen in |
|---|---|---|"""
_MAPPING = """\
## Column mapping

`columns[part]=column` names the column of a part: `POST
/v1/datasets?columns[prompt]=question&columns[chosen]=good&columns[rejected]=bad`. `a.b` is the
key `b` of objects in the column `a`. A part that is not mapped uses the column with its own name.
Map `chosen` and `rejected`; or `response_a`, `response_b` and `label` (or `score_a` and
`score_b`); or `answers`. A mapping of other parts alone, such as `columns[system]=notes`, adds them
to the recognised shape. If the shape is unknown, the error lists the columns and suggests a mapping
that it has tried on the first rows.
"""
_LABELS = """\
`labels[a]`, `labels[b]` and `labels[tie]` define the values of `label`:
`labels[a]=1&labels[b]=0&labels[tie]=2`. Separate several values with commas. `positive` and
`negative` mean numbers of that sign, whose absolute value becomes the margin. Without `labels`,
these values are known: {values}; the names of the two columns; phrases such as `Response A` and `A
is slightly better`; the values of the columns `model_a` and `model_b`; and, if the column names end
in numbers, those numbers. Otherwise 0 and 1 are rejected, because some datasets count from 0 and
others flag the first response with 1. If a recognised shape has a label, `labels[…]` works without
`columns[…]`. A list of labels is read as votes, of which the majority decides.
"""


def data_text() -> str:
    """Return the page with its tables generated again."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{_tables()}{END}{after}"


def _tables() -> str:
    harmless = (f"`{name}`" for name in HARMLESS if name)
    lines = [
        "",
        _HARMLESS,
        "",
        _wrapped(harmless),
        "",
        "Names of text about the pair:",
        "",
        _wrapped(f"`{name}`" for name in DESCRIPTIVE),
        "",
        "Names that belong to the pair:",
        "",
        _wrapped(f"`{name}`" for name in sorted(MEANINGFUL)),
        "",
        "Names of images, audio and video:",
        "",
        _wrapped(f"`{name}`" for name in sorted(MEDIA)),
        "",
        _SHAPES,
        *(f"| `{shape.name}` | {shape.summary} | {shape.seen_in} |" for shape in SHAPES),
        "",
    ]
    for shape in SHAPES:
        lines += _example(shape)
    return "\n".join([*lines, *_mapping()]) + "\n"


def _example(shape: Shape) -> list[str]:
    lines = [f"### {shape.name}", "", shape.summary, ""]
    for fields, how in ((shape.harmless, "without"), (shape.descriptive, "with")):
        if fields:
            names = _wrapped(f"`{name}`" for name in sorted(fields))
            lines += [f"Also ignored {how} a warning: {names}.", ""]
    for example in shape.examples:
        lines += ["```json", _json(example), "```", "", "is stored as", ""]
        lines += ["```json", _json(_stored(dict(example))), "```", ""]
    return lines


def _mapping() -> list[str]:
    assert _PARTS.keys() == set(MAPPABLE)
    values = ", ".join(f"`{value}`" for value in SIDE_NAMES)
    rows = [f"| `{part}` | {_PARTS[part]} |" for part in MAPPABLE]
    return [
        _MAPPING,
        "| part | description |",
        "|---|---|",
        *rows,
        "",
        _LABELS.format(values=values),
    ]


def _stored(example: dict[str, Any]) -> dict[str, Any]:
    reader = DatasetReader()
    data = json.dumps(example).encode()
    row: dict[str, Any] = json.loads(b"".join(reader.read([data], "jsonl")))
    return row


def _json(row: dict[str, Any]) -> str:
    """Write a row on one line if it is short, else each column on its own line."""
    columns = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in row.items()]
    text = ", ".join(columns)
    return "{" + (text if len(text) < _WIDTH else ",\n ".join(columns)) + "}"


def _wrapped(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), _WIDTH, break_long_words=False, break_on_hyphens=False)
