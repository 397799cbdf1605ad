"""Derive from the first rows of an upload the form that every row must have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from app.datasets.row_errors import FileError
from app.datasets.shapes.answers import contents
from app.datasets.shapes.dialogues import is_dialogue
from app.datasets.shapes.forms import CHAT, SEVERAL, Form, form_of
from app.datasets.shapes.labels import Signed
from app.datasets.shapes.sample import Sample, value_at
from app.datasets.shapes.shape import PART_NAMES, Parts

#: Shorter prompts are not looked for in replies: "Hi there" may be a reply to "Hi".
MIN_REPEATED_PROMPT_CHARACTERS = 20

#: If at least this share of the first rows has a part, all rows must have it.
_MOST = 0.5

Kind = Literal["text", "conversational"]


@dataclass(frozen=True)
class PartColumns:
    """Column of each part in this upload; None if the shape does not have the part.

    A column is set even if the first rows do not have it, because a later row may have it.
    """

    system: str | None
    history: str | None
    prompt: str | None
    input: str | None
    chosen: str | None
    rejected: str | None
    response_a: str | None
    response_b: str | None
    answers: str | None
    scores: str | None
    ranks: str | None
    margin: str | None
    slice: str | None
    id: str | None
    tools: str | None
    chat_template_kwargs: str | None

    @classmethod
    def of(cls, parts: Parts, sample: Sample) -> PartColumns:
        """Choose for each part the first column that the sample has, else its first column."""
        found: dict[str, str | None] = {}
        for name in PART_NAMES:
            paths = getattr(parts, name)
            there = (path for path in paths if sample.has(path))
            found[name] = next(there, paths[0] if paths else None)
        if found["input"] == found["prompt"]:
            found["input"] = None
        return cls(**found)

    @property
    def sides(self) -> tuple[str, ...]:
        """Columns of replies."""
        sides = (self.chosen, self.rejected, self.response_a, self.response_b, self.answers)
        return tuple(column for column in sides if column is not None)

    def part_of(self, column: str) -> str | None:
        """Return the part that reads a column, or None."""
        return next((name for name in PART_NAMES if getattr(self, name) == column), None)

    def used(self, parts: Parts) -> frozenset[str]:
        """Return every column that the shape reads."""
        label = parts.label.columns if parts.label else ()
        columns = (getattr(self, name) for name in PART_NAMES)
        return frozenset({column for column in columns if column is not None} | set(label))


@dataclass(frozen=True)
class FileForm:
    """Form that all rows of the upload must have: the form of most of the first rows."""

    columns: PartColumns
    row_form: Literal["pairs", "ranked"]
    kind: Kind
    """Form of the stored rows: conversational if any part is messages or needs its own turn."""
    prompt_kind: Kind | None
    side_kind: Kind
    is_prompt_dialogue: bool
    are_sides_dialogues: bool
    is_prompt_repeated: bool
    """Whether the replies are text that begins with the prompt."""
    has_margin: bool

    @property
    def lacks_prompt(self) -> bool:
        """Whether nothing can be the prompt: no column, and no message before a reply."""
        is_alone = self.side_kind == "text" and not self.are_sides_dialogues
        return self.prompt_kind is None and is_alone

    @property
    def plain_columns(self) -> tuple[str, str, str] | None:
        """Columns of prompt, chosen and rejected, if their values are stored unchanged."""
        columns = self.columns
        if not (columns.prompt and columns.chosen and columns.rejected):
            return None
        if self.is_prompt_dialogue or self.are_sides_dialogues or self.is_prompt_repeated:
            return None
        if not self.prompt_kind == self.side_kind == self.kind:
            return None
        return columns.prompt, columns.chosen, columns.rejected

    @classmethod
    def of(cls, parts: Parts, sample: Sample) -> FileForm:
        """Derive the form from a sample.

        Raises:
            FileError: the sample has system texts, tools or template variables, but no prompt.
        """
        columns = PartColumns.of(parts, sample)
        sample = sample.with_all(columns.sides)  # rows without a side are rejected in any form
        sides: set[Form] = set()
        for column in columns.sides:
            sides |= sample.forms(column)
        is_free = not parts.is_verbatim
        is_prompt_dialogue = is_free and _are_dialogues(sample, [columns.prompt])
        are_sides_dialogues = is_free and _are_dialogues(sample, columns.sides)
        has_prompt = sample.share(columns.prompt) >= _MOST
        prompt_kind = _kind(sample, [columns.prompt]) if has_prompt else None
        side_kind = _kind(sample, columns.sides, is_answers=columns.answers is not None)
        is_chat = (
            "conversational" in (prompt_kind, side_kind)
            or is_prompt_dialogue
            or are_sides_dialogues
        )
        if (needs_chat := _needs_chat(columns, sample)) is not None:
            if needs_chat != columns.history and not has_prompt and not is_chat:
                raise _no_prompt(needs_chat)
            is_chat = True
        # A list beside a label may be the turns of one reply.
        is_ranked = bool(columns.answers or (parts.label is None and sides & SEVERAL))
        if is_ranked or isinstance(parts.label, Signed):  # which have no other margin
            columns = replace(columns, margin=None)
        return cls(
            columns=columns,
            row_form="ranked" if is_ranked else "pairs",
            kind="conversational" if is_chat else "text",
            prompt_kind=prompt_kind,
            side_kind=side_kind,
            is_prompt_dialogue=is_prompt_dialogue,
            are_sides_dialogues=are_sides_dialogues,
            is_prompt_repeated=is_free and _is_prompt_repeated(columns, sample),
            has_margin=sample.share(columns.margin) >= _MOST,
        )


def _needs_chat(columns: PartColumns, sample: Sample) -> str | None:
    """Return the first column whose values only a chat template can render, or None."""
    for name in ("system", "history", "tools", "chat_template_kwargs"):
        column = getattr(columns, name)
        if column is not None and any(sample.values(column)):
            return str(column)
    return None


def _kind(sample: Sample, columns: Iterable[str | None], *, is_answers: bool = False) -> Kind:
    """Return the form of most values of the columns."""
    chats = texts = 0
    for column in columns:
        for value in sample.values(column) if column else ():
            for item in contents(value) if is_answers else [value]:
                chats += form_of(item) in CHAT
                texts += isinstance(item, str) or form_of(item) == Form.TEXTS
    return "conversational" if chats > texts else "text"


def _are_dialogues(sample: Sample, columns: Iterable[str | None]) -> bool:
    """Return whether most texts in the columns are Human:/Assistant: dialogues."""
    dialogues = texts = 0
    for column in columns:
        for value in sample.values(column) if column else ():
            if isinstance(value, str):
                texts += 1
                dialogues += bool(is_dialogue(value))
    return 2 * dialogues > texts


def _is_prompt_repeated(columns: PartColumns, sample: Sample) -> bool:
    """Return whether all replies begin with the prompt, in several rows or with a long prompt."""
    if columns.prompt is None or columns.answers is not None:
        return False
    longest = count = 0
    for _, row in sample.rows:
        prompt = value_at(row, columns.prompt)
        replies = [value_at(row, column) for column in columns.sides]
        if not isinstance(prompt, str) or not prompt.strip():
            return False
        if not all(isinstance(reply, str) and reply.startswith(prompt) for reply in replies):
            return False
        count += 1
        longest = max(longest, len(prompt))
    return count > 1 or longest >= MIN_REPEATED_PROMPT_CHARACTERS


def _no_prompt(column: str) -> FileError:
    return FileError(
        "missing_column",
        f"the rows have {column}, and no column is the prompt",
        "name the prompt's column: columns[prompt]=…",
        column="prompt",
    )
