"""Rows of an upload → preference rows (``app.domain.rows``), by the shape of the upload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.datasets.conversations import Message, check_reply, read_messages
from app.datasets.row_errors import RowError, kind_of, shown
from app.datasets.shapes import extras
from app.datasets.shapes.answers import Reply, rank_sides, read_answers
from app.datasets.shapes.dialogues import read_dialogue
from app.datasets.shapes.file_form import MIN_REPEATED_PROMPT_CHARACTERS, FileForm, Kind
from app.datasets.shapes.joining import join
from app.datasets.shapes.prompts import read_history, read_system, with_input
from app.datasets.shapes.sample import value_at
from app.datasets.shapes.shape import Parts
from app.datasets.texts import check_side
from app.datasets.unused import UnusedFields

Draft = dict[str, Any]
"""A preference row without its line: keys as in ``app.domain.rows``, in any order."""


class RowAssembler:
    """Makes a preference row of each row of an upload."""

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

    def __call__(self, row: Mapping[str, Any]) -> Draft:
        """The preference row.

        Raises:
            RowError: the row is no preference row, or unlike the first rows; ``tie`` if neither
                reply is better.
            FileError: it has text that would be lost.
        """
        self._unused.check_row(row)
        draft = self._ranked(row) if self._form.row_form == "ranked" else self._pair(row)
        columns = self._columns
        if columns.slice is not None and (label := value_at(row, columns.slice)) is not None:
            draft["slice"] = extras.read_slice(columns.slice, label)
        self._add_tools(row, draft)
        return draft

    def _add_tools(self, row: Mapping[str, Any], draft: Draft) -> None:
        columns = self._columns
        if columns.tools is not None and (tools := value_at(row, columns.tools)):
            self._check_chat(columns.tools)
            if read := extras.read_tools(columns.tools, tools):
                draft["tools"] = read
        column = columns.chat_template_kwargs
        if column is not None and (variables := value_at(row, column)):
            self._check_chat(column)
            if read_variables := extras.read_variables(column, variables):
                draft["chat_template_kwargs"] = read_variables

    def _check_chat(self, column: str) -> None:
        """Refuse in a file of texts what only a chat template can render."""
        if not self._is_chat:
            raise RowError(
                "mixed_format",
                f"this row has {column}, unlike the first rows, which are text",
                f"give {column} in the first rows too, or write messages in all rows",
                column=column,
            )

    # --- pairs ----------------------------------------------------------------------------------

    def _pair(self, row: Mapping[str, Any]) -> Draft:
        chosen_at, rejected_at, margin = self._sides(row)
        chosen, rejected = self._reply(row, chosen_at), self._reply(row, rejected_at)
        prompt, (chosen, rejected) = self._joined(row, [chosen_at, rejected_at], [chosen, rejected])
        if chosen == rejected:
            raise RowError(
                "identical_pair",
                f"{rejected_at} is the same as {chosen_at}",
                "leave the row out; there is nothing to learn from it",
                column=rejected_at,
            )
        draft: Draft = {"chosen": chosen, "rejected": rejected}
        if prompt:
            draft["prompt"] = prompt
        if margin is None:
            margin = self._margin(row)
        if margin is not None:
            draft["margin"] = margin
        return draft

    def _sides(self, row: Mapping[str, Any]) -> tuple[str, str, float | None]:
        """The columns of the better and the worse reply, and the margin of the label."""
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
            margin = extras.read_margin(str(column), value, self._is_untyped)
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

    def _ranked(self, row: Mapping[str, Any]) -> Draft:
        columns = self._columns
        if columns.answers is not None:
            scores = columns.scores and (columns.scores, value_at(row, columns.scores))
            value = value_at(row, columns.answers)
            answers = read_answers(columns.answers, value, self._unused, scores or None)
        else:
            assert columns.chosen is not None
            assert columns.rejected is not None
            answers = rank_sides(row, columns.chosen, columns.rejected)
        replies = [self._content(answer.path, answer.content) for answer in answers]
        prompt, replies = self._joined(row, [answer.path for answer in answers], replies)
        draft: Draft = {
            "replies": [
                _stored(answer, reply) for answer, reply in zip(answers, replies, strict=True)
            ]
        }
        if prompt:
            draft["prompt"] = prompt
        return draft

    # --- texts and messages ---------------------------------------------------------------------

    def _reply(self, row: Mapping[str, Any], column: str) -> Any:
        value = value_at(row, column)
        if value is not None:
            return self._content(column, value)
        if self._is_untyped and column in row:
            raise RowError("empty_text", "the text is empty", "leave out the row", column=column)
        null = "is null" if column in row else "is missing"
        found = ", ".join(shown(name) for name in list(row)[:10]) or "no columns"
        raise RowError(
            "missing_column",
            f"{column} {null} (the row has: {found})",
            "each row needs both replies",
            column=column,
        )

    def _content(self, path: str, value: Any) -> Any:
        """A reply as text, or as messages where the upload has them."""
        if isinstance(value, str):
            self._check_kind(path, "text", self._form.side_kind)
            if self._form.are_sides_dialogues:
                messages = read_dialogue(path, value)
                check_reply(path, messages)
                return messages
            check_side(path, value)
            return value
        messages = self._messages(path, value)
        self._check_kind(path, "conversational", self._form.side_kind)
        check_reply(path, messages)
        return messages

    def _messages(self, path: str, value: Any) -> list[Message]:
        if isinstance(value, dict):
            return read_messages(path, [value], self._unused)
        if isinstance(value, list):
            return read_messages(path, value, self._unused)
        raise RowError(
            "wrong_type",
            f"found {kind_of(value)}",
            "give text or a list of {role, content}",
            column=path,
        )

    def _check_kind(self, path: str, kind: Kind, expected: Kind | None) -> None:
        if kind != expected:
            raise RowError(
                "mixed_format",
                f"{path} is {kind} here, and most replies and prompts are {expected}",
                "use text in all rows, or lists of messages in all rows",
                column=path,
            )

    def _prompt(self, row: Mapping[str, Any]) -> Any:
        """The prompt column as text or messages; None without one."""
        column = self._columns.prompt
        value = value_at(row, column) if column is not None else None
        if not self._is_verbatim and (value is None) == (self._form.prompt_kind is not None):
            found = "has no prompt" if value is None else "has a prompt"
            raise RowError(
                "mixed_prompt",
                f"this row {found}, unlike others",
                "give a prompt in all rows, or in none",
                column="prompt",
            )
        if value is None or column is None:
            return None
        expected = self._form.kind if self._is_verbatim else self._form.prompt_kind
        if isinstance(value, str):
            self._check_kind(column, "text", expected)
            if self._form.is_prompt_dialogue:
                return read_dialogue("prompt", value)
            check_side(column, value)
            return value
        messages = self._messages(column, value)
        self._check_kind(column, "conversational", expected)
        return messages

    def _joined(
        self, row: Mapping[str, Any], paths: list[str], replies: list[Any]
    ) -> tuple[Any, list[Any]]:
        """Prompt and replies in the format of the dataset, the prompt no longer in the replies."""
        columns = self._columns
        prompt = self._prompt(row)
        if isinstance(prompt, str) and isinstance(replies[0], str) and not self._is_verbatim:
            replies = self._without_prompt(prompt, paths, replies)
        if columns.input is not None:
            prompt = with_input(columns.input, prompt, value_at(row, columns.input))
        system = read_system(columns.system, row)
        history = read_history(columns.history, row, self._unused)
        if not self._is_chat:
            if system is not None or history:
                self._check_chat(str(columns.system if system is not None else columns.history))
            return prompt, replies
        trims = self._form.is_prompt_dialogue or self._form.is_prompt_repeated
        sides = [
            [{"content": reply.strip() if trims else reply, "role": "assistant"}]
            if isinstance(reply, str)
            else reply
            for reply in replies
        ]
        return join(system=system, history=history, prompt=prompt, paths=paths, sides=sides)

    def _without_prompt(self, prompt: str, paths: list[str], replies: list[str]) -> list[str]:
        """Text replies without the prompt that they begin with in this upload."""
        repeats = [reply.startswith(prompt) for reply in replies]
        if self._form.is_prompt_repeated:
            if not all(repeats):
                raise RowError(
                    "mixed_prompt",
                    f"{paths[repeats.index(False)]} does not begin with the prompt, unlike others",
                    "begin the replies with the prompt in all rows, or in none",
                    column=paths[repeats.index(False)],
                )
            rest = [reply[len(prompt) :] for reply in replies]
            for path, reply in zip(paths, rest, strict=True):
                check_side(path, reply)
            return rest
        if all(repeats) and len(prompt) >= MIN_REPEATED_PROMPT_CHARACTERS:
            raise RowError(
                "prompt_repeated",
                "the replies begin with the prompt, which would then be read twice",
                "begin the replies with the prompt in all rows, or in none",
                column=paths[0],
            )
        return replies


def _stored(answer: Reply, reply: Any) -> dict[str, Any]:
    stored = {"rank": answer.rank, "reply": reply}
    return stored if answer.score is None else stored | {"score": answer.score}
