"""What a shape is: the parts of a row, and where each comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.datasets.shapes.labels import Label
from app.datasets.shapes.sample import Sample

#: Columns that may give a part; the first that an upload has is taken. ``a.b`` is key b of a.
Columns = tuple[str, ...]
SYSTEM: Columns = ("system", "system_prompt", "system_message")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where the parts of a preference row come from. Either sides, responses, or answers.

    - ``chosen`` and ``rejected``: sides that are sorted already, one or several each.
    - ``response_a`` and ``response_b`` with a ``label``: two responses and which of them is better.
    - ``answers``: a list of texts, best first, or of objects with a text and a rank or score;
      or a list of texts and, in ``scores``, a list of numbers, higher is better.

    ``is_verbatim``: nothing is read into the values, and any row may lack the prompt.
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
    margin: Columns = ("margin",)
    slice: Columns = ("slice",)
    id: Columns = ()
    tools: Columns = ("tools",)
    chat_template_kwargs: Columns = ("chat_template_kwargs",)
    is_verbatim: bool = False

    @property
    def required(self) -> tuple[Columns, ...]:
        """Parts without which a row has no pair."""
        sides = (
            self.chosen, self.rejected, self.response_a, self.response_b, self.answers, self.scores,
        )  # fmt: skip
        return tuple(columns for columns in sides if columns)


#: The parts that come straight from columns, in the order of the documentation.
PART_NAMES = (
    "system", "history", "prompt", "input", "chosen", "rejected", "response_a", "response_b",
    "answers", "scores", "margin", "slice", "id", "tools", "chat_template_kwargs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One shape of preference data: how it is recognised, read and documented.

    A shape fits an upload whose first rows have all columns of ``parts.required``, of ``label`` and
    of ``needs``, have none of ``lacks``, and satisfy ``when``.
    """

    name: str
    summary: str
    """One line for people: what the columns are and what becomes of them."""
    parts: Parts
    examples: tuple[Mapping[str, Any], ...]
    """Rows as they are uploaded. The documentation and the tests read them."""
    seen_in: str = ""
    """Public datasets of this shape."""
    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    when: Callable[[Sample], bool] = lambda _: True
    find: Callable[[Sample], Parts | None] | None = None
    """Finds the parts where the columns have no fixed names; ``parts`` are those of the example."""
    harmless: frozenset[str] = frozenset()
    """Columns beside those of ``app.datasets.unused.HARMLESS`` that are ignored quietly."""

    def fits(self, sample: Sample) -> bool:
        """Whether the first rows of an upload have this shape."""
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
        """Where the parts are in an upload that has this shape."""
        return (self.find and self.find(sample)) or self.parts
