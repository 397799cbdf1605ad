"""Definition of a shape: the parts of a row, and the columns of each part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.datasets.shapes.labels import Label
from app.datasets.shapes.sample import Sample

#: Columns that may hold a part; the first one that an upload has is used. ``a.b`` is key b of a.
Columns = tuple[str, ...]
SYSTEM: Columns = ("system", "system_prompt", "system_message")
TOOLS: Columns = ("tools", "functions")
#: Names of the prompt beside responses that no column calls chosen and rejected.
PROMPTS: Columns = (
    "prompt", "question", "instruction", "query", "messages", "conversation", "contents",
    "context", "input", "input_text",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Columns of the parts of a preference row. A shape has one of three groups:

    - ``chosen`` and ``rejected``: one or several replies each.
    - ``response_a`` and ``response_b`` with a ``label`` that names the better one.
    - ``answers``: a list of texts, best first, or of objects with a text and a rank or score;
      or a list of texts, and a list of numbers: in ``scores``, where higher is better, or in
      ``ranks``, where lower is better.

    ``is_verbatim``: values are stored unchanged (no dialogues are parsed, no repeated prompts are
    cut), and any row may lack the prompt.
    """

    system: Columns = SYSTEM
    history: Columns = ("history",)
    prompt: Columns = ()
    input: Columns = ()
    chosen: Columns = ()
    rejected: Columns = ()
    response_a: Columns = ()
    response_b: Columns = ()
    label: Label | None = None
    answers: Columns = ()
    scores: Columns = ()
    ranks: Columns = ()
    margin: Columns = ("margin",)
    slice: Columns = ("slice",)
    id: Columns = ()
    tools: Columns = TOOLS
    chat_template_kwargs: Columns = ("chat_template_kwargs",)
    is_verbatim: bool = False

    @property
    def required(self) -> tuple[Columns, ...]:
        """Parts that a row must have."""
        sides = (
            self.chosen, self.rejected, self.response_a, self.response_b, self.answers, self.scores,
            self.ranks,
        )  # fmt: skip
        return tuple(columns for columns in sides if columns)


#: Parts that are read directly from columns, in the order of the documentation.
PART_NAMES = (
    "system", "history", "prompt", "input", "chosen", "rejected", "response_a", "response_b",
    "answers", "scores", "ranks", "margin", "slice", "id", "tools", "chat_template_kwargs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A shape of preference data: how it is recognised, read and documented.

    A shape fits an upload if its first rows have all columns of ``parts.required``, ``label`` and
    ``needs``, have none of ``lacks``, and satisfy ``when``.
    """

    name: str
    summary: str
    """Documentation of the columns and their conversion, in one or two sentences."""
    parts: Parts
    examples: tuple[Mapping[str, Any], ...]
    """Rows as they are uploaded, used by the documentation and the tests."""
    seen_in: str = ""
    """Public datasets with this shape."""
    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    when: Callable[[Sample], bool] = lambda _: True
    find: Callable[[Sample], Parts | None] | None = None
    """Finds the parts if the columns have no fixed names; ``parts`` then describes the example."""
    convert: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """Rewrites each row first, or raises RowError, if the values need more than choosing them."""
    harmless: frozenset[str] = frozenset()
    """Columns that are ignored without a warning, in addition to ``unused.HARMLESS``."""
    descriptive: frozenset[str] = frozenset()
    """Columns that are ignored with a warning, in addition to ``unused.DESCRIPTIVE``."""

    def fits(self, sample: Sample) -> bool:
        """Return whether the first rows of an upload have this shape."""
        if self.find is not None:
            return self.find(sample) is not None
        label = self.parts.label.columns if self.parts.label else ()
        return (
            all(any(map(sample.has, columns)) for columns in self.parts.required)
            and all(map(sample.has, (*label, *self.needs)))
            and not any(map(sample.has, self.lacks))
            and self.when(sample)
        )

    @property
    def needed_columns(self) -> frozenset[str]:
        """Columns by which the shape is recognised, aside from those whose keys are parts."""
        paths = (path for name in PART_NAMES for path in getattr(self.parts, name))
        return frozenset(self.needs) - {path.partition(".")[0] for path in paths if "." in path}

    def parts_in(self, sample: Sample) -> Parts:
        """Return the columns of the parts in an upload that has this shape."""
        return (self.find and self.find(sample)) or self.parts
