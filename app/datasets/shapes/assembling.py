"""Convert rows of an upload to preference rows (``app.domain.rows``) by the shape of the upload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from app.datasets.row_errors import RowError
from app.datasets.shapes import extras
from app.datasets.shapes.answers import Numbers, plain_sides, rank_sides, read_answers
from app.datasets.shapes.contents import ContentReader, mixed_prompt
from app.datasets.shapes.file_form import FileForm, PartColumns
from app.datasets.shapes.joining import Before, join
from app.datasets.shapes.plain import plain_reader, reads_system
from app.datasets.shapes.prompts import read_history, read_system, with_input
from app.datasets.shapes.sample import value_at
from app.datasets.shapes.shape import Parts
from app.datasets.unused import UnusedFields

PreferenceRow = dict[str, Any]
"""A row as in ``app.domain.rows``, with its keys in the stored order."""

_KEYS = (
    "chat_template_kwargs", "chosen", "id", "line", "margin", "prompt", "rejected", "replies",
    "slice", "tools",
)  # fmt: skip
_MAX_LAYOUTS = 100
#: Parts that few uploads have; rows without their columns skip them.
_OPTIONS = (
    "system", "history", "input", "margin", "slice", "id", "tools", "chat_template_kwargs",
)  # fmt: skip


class _Layout(NamedTuple):
    """Properties of a set of column names, cached for all rows with the same names."""

    has_suspects: bool
    has_options: bool
    is_plain: bool
    """Whether the fast paths of pairs know all parts of these rows."""
    columns: PartColumns
    """The column of each part; None for an optional part that these rows do not have."""


class RowAssembler:
    """Converts each row of an upload to a preference row."""

    def __init__(
        self,
        parts: Parts,
        form: FileForm,
        unused: UnusedFields,
        *,
        is_untyped: bool = False,
    ) -> None:
        self._label = parts.label
        self._is_verbatim = parts.is_verbatim
        self._form = form
        self._columns = form.columns
        self._unused = unused
        self._is_untyped = is_untyped
        self._is_chat = form.kind == "conversational"
        self._read = ContentReader(
            form, unused, is_untyped=is_untyped, is_verbatim=parts.is_verbatim
        )
        self._trims = form.is_prompt_dialogue or form.is_prompt_repeated
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._plain = plain_reader(parts, form, unused, self._sides)
        self._plain_at = form.plain_columns if form.row_form == "ranked" else None

    def __call__(self, line: int, row: Mapping[str, Any]) -> PreferenceRow:
        """Convert one row.

        Raises:
            RowError: the row is invalid or differs in form from the first rows; ``tie`` if neither
                reply is better.
            FileError: the row has text in a column that no part uses.
        """
        names = tuple(row)
        layout = self._layouts.get(names) or self._layout_of(names)
        if layout.has_suspects:
            self._unused.check_row(row)
        if (
            layout.is_plain
            and self._plain is not None
            and (plain := self._plain(line, row)) is not None
        ):
            return plain
        if self._form.row_form == "ranked":
            made = self._ranked(row, layout)
        else:
            made = self._pair(line, row, layout)
        if layout.has_options:
            self._add_options(row, layout.columns, made)
        elif "line" in made:
            return made
        made["line"] = line
        return {key: made[key] for key in _KEYS if key in made}

    def _layout_of(self, names: tuple[str, ...]) -> _Layout:
        options = {name: getattr(self._columns, name) for name in _OPTIONS}
        found = {
            name: column
            for name, column in options.items()
            if column is not None and not {column, column.partition(".")[0]}.isdisjoint(names)
        }
        layout = _Layout(
            has_suspects=self._unused.has_suspects(names),
            has_options=bool(found) or self._form.has_margin,
            is_plain=not self._form.has_margin
            and found.keys() <= ({"system"} if reads_system(self._plain) else set()),
            columns=replace(self._columns, **{name: found.get(name) for name in options}),
        )
        if len(self._layouts) < _MAX_LAYOUTS:
            self._layouts[names] = layout
        return layout

    def _add_options(
        self, row: Mapping[str, Any], columns: PartColumns, made: PreferenceRow
    ) -> None:
        if columns.slice is not None and (label := value_at(row, columns.slice)) is not None:
            made["slice"] = extras.read_slice(columns.slice, label)
        if columns.id is not None and (name := extras.read_id(value_at(row, columns.id))):
            made["id"] = name
        if columns.tools is not None and (tools := value_at(row, columns.tools)):
            self._check_chat(columns.tools)
            if read := extras.read_tools(columns.tools, tools):
                made["tools"] = read
        column = columns.chat_template_kwargs
        if column is not None and (variables := value_at(row, column)):
            self._check_chat(column)
            if read_variables := extras.read_variables(column, variables):
                made["chat_template_kwargs"] = read_variables

    def _check_chat(self, column: str) -> None:
        """Reject, in a file of texts, a part that only a chat template can render."""
        if not self._is_chat:
            raise RowError(
                "mixed_format",
                f"this row has {column}, unlike the first rows, which are text",
                f"give {column} in the first rows too, or write messages in all rows",
                column=column,
            )

    # --- pairs ----------------------------------------------------------------------------------

    def _pair(self, line: int, row: Mapping[str, Any], layout: _Layout) -> PreferenceRow:
        chosen_at, rejected_at, margin = self._sides(row)
        chosen, rejected = self._read.reply(row, chosen_at), self._read.reply(row, rejected_at)
        prompt, chosen, rejected = self._joined(
            row, layout, [chosen_at, rejected_at], [chosen, rejected]
        )
        if chosen == rejected:
            raise RowError(
                "identical_pair",
                f"{rejected_at} is the same as {chosen_at}",
                "leave the row out; there is nothing to learn from it",
                column=rejected_at,
            )
        if margin is None and layout.has_options:
            margin = self._margin(row)
        made: PreferenceRow = {"chosen": chosen, "line": line}
        if margin is not None:
            made["margin"] = margin
        if prompt:
            made["prompt"] = prompt
        made["rejected"] = rejected
        return made

    def _sides(self, row: Mapping[str, Any]) -> tuple[str, str, float | None]:
        """Return the columns of the better and the worse reply, and the margin of the label."""
        columns = self._columns
        if self._label is None:
            assert columns.chosen is not None
            assert columns.rejected is not None
            return columns.chosen, columns.rejected, None
        verdict = self._label.read(row)
        assert columns.response_a is not None
        assert columns.response_b is not None
        if verdict.winner == "tie":
            raise RowError(
                "tie",
                "neither response is better",
                "leave the row out; there is nothing to learn from it",
                column=self._label.columns[0],
            )
        sides = columns.response_a, columns.response_b
        better, worse = sides if verdict.winner == "a" else sides[::-1]
        return better, worse, verdict.margin

    def _margin(self, row: Mapping[str, Any]) -> float | None:
        column = self._columns.margin
        value = value_at(row, column) if column is not None else None
        margin = None
        if value is not None:
            margin = extras.read_margin(str(column), value, is_untyped=self._is_untyped)
        if (value is not None) == self._form.has_margin:
            return margin
        found = (
            "has no margin and others have" if value is None else "has a margin and others do not"
        )
        raise RowError(
            "mixed_margin",
            f"this row {found}",
            "margin must be a finite number in all rows, or in none",
            column=column,
        )

    # --- ranked rows ----------------------------------------------------------------------------

    def _ranked(self, row: Mapping[str, Any], layout: _Layout) -> PreferenceRow:
        columns = layout.columns
        is_alone = not (columns.input or columns.system or columns.history)
        if self._plain_at is not None and not self._is_chat and is_alone:
            prompt, chosen, rejected = (row.get(column) for column in self._plain_at)
            if (plain := plain_sides(prompt, chosen, rejected)) is not None:
                return {"prompt": prompt, "replies": plain}
        if columns.answers is not None:
            value, numbers = value_at(row, columns.answers), None
            if (column := columns.scores or columns.ranks) is not None:
                is_rank = columns.scores is None
                numbers = Numbers(column, value_at(row, column), is_rank=is_rank)
            answers = read_answers(columns.answers, value, self._unused, numbers)
        else:
            assert columns.chosen is not None
            assert columns.rejected is not None
            answers = rank_sides(row, columns.chosen, columns.rejected)
        replies = [self._read.content(answer.path, answer.content) for answer in answers]
        paths = [answer.path for answer in answers]
        prompt, *replies = self._joined(row, layout, paths, replies)
        stored = [answer.stored(reply) for answer, reply in zip(answers, replies, strict=True)]
        return {"replies": stored, "prompt": prompt} if prompt else {"replies": stored}

    # --- prompt and replies together ------------------------------------------------------------

    def _joined(
        self, row: Mapping[str, Any], layout: _Layout, paths: list[str], replies: list[Any]
    ) -> list[Any]:
        """Return [prompt, *replies] in the format of the dataset, without repeats of the prompt."""
        prompt = self._read.prompt(row)
        if self._is_verbatim:
            if prompt is not None or not self._is_chat:
                return [prompt, *replies]
            return join(Before(), paths, replies)  # not a stored row if they begin with a prompt
        if type(replies[0]) is str:
            replies = self._read.texts(prompt, paths, replies)
        if not layout.has_options:
            if not self._is_chat:
                return [prompt, *replies]
            before = Before(prompt=prompt, prompt_column=str(self._columns.prompt))
            return self._conversation(before, paths, replies)
        columns = layout.columns
        if columns.input is not None:
            prompt = with_input(columns.input, prompt, value_at(row, columns.input))
        system = read_system(columns.system, row, self._unused)
        history = read_history(columns.history, row, self._unused)
        if not self._is_chat:
            if system is not None or history:
                self._check_chat(str(columns.system if system is not None else columns.history))
            return [prompt, *replies]
        before = Before(system, history, prompt, str(columns.prompt), str(columns.system))
        return self._conversation(before, paths, replies)

    def _conversation(self, before: Before, paths: list[str], replies: list[Any]) -> list[Any]:
        if type(replies[0]) is not str:
            joined = join(before, paths, replies)
            if self._form.prompt_kind is not None and not joined[0]:
                raise mixed_prompt("has no prompt")
            return joined
        if self._trims:
            replies = [reply.strip() for reply in replies]
        sides = [[{"content": reply, "role": "assistant"}] for reply in replies]
        return join(before, paths, sides)
