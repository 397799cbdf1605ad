"""Read the prompt and the replies of a row as text or messages, the form of most rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.datasets.conversations import Message, check_reply, read_messages
from app.datasets.row_errors import RowError, kind_of, shown
from app.datasets.shapes.answers import text_key
from app.datasets.shapes.dialogues import (
    is_dialogue,
    is_dialogue_prompt,
    mixed_dialogue,
    read_dialogue,
)
from app.datasets.shapes.file_form import MIN_REPEATED_PROMPT_CHARACTERS, FileForm, Kind
from app.datasets.shapes.sample import value_at
from app.datasets.texts import check_side, is_clean
from app.datasets.unused import UnusedFields


def mixed_prompt(found: str) -> RowError:
    """Return the error for a row with a prompt where others have none, or without one."""
    return RowError(
        "mixed_prompt",
        f"this row {found}, unlike others",
        "give a prompt in all rows, or in none",
        column="prompt",
    )


class ContentReader:
    """Reads the texts and messages of one upload."""

    def __init__(
        self, form: FileForm, unused: UnusedFields, *, is_untyped: bool, is_verbatim: bool
    ) -> None:
        self._form = form
        self._unused = unused
        self._is_untyped = is_untyped
        self._is_verbatim = is_verbatim
        self._are_sides_plain = form.side_kind == "text" and not form.are_sides_dialogues
        self._are_sides_messages = form.side_kind == "conversational"

    def reply(self, row: Mapping[str, Any], column: str) -> Any:
        """Read the reply in a column; return text or messages, as ``content`` does.

        Raises:
            RowError: the reply is missing or invalid.
        """
        value = row.get(column)
        if type(value) is str and self._are_sides_plain and is_clean(value):
            return value
        if type(value) is list and self._are_sides_messages:
            messages = read_messages(column, value, self._unused)
            if messages[-1]["role"] != "assistant":
                check_reply(column, messages)
            return messages
        if value is None:
            value = value_at(row, column)
        if value is not None:
            return self.content(column, value)
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

    def content(self, path: str, value: Any) -> Any:
        """Read a reply as text, or as messages if most replies of the upload are messages.

        Raises:
            RowError: the reply is empty, or has another form than most replies.
        """
        if isinstance(value, str):
            if self._are_sides_plain and is_clean(value):
                return value
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
            if (key := text_key(value)) and not value.keys() & {"role", "from"}:
                part = self._form.columns.part_of(path)
                raise RowError(
                    "wrong_type",
                    "found an object that is no message",
                    f"map its text with columns[{part}]={path}.{key}"
                    if part
                    else f"give the text of its key {shown(key)} itself",
                    column=path,
                )
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

    def prompt(self, row: Mapping[str, Any]) -> Any:
        """Read the prompt as text or messages; return None if the row has none.

        Raises:
            RowError: the prompt is empty, has another form than most prompts, or is missing
                although other rows have one.
        """
        column = self._form.columns.prompt
        value = value_at(row, column) if column is not None else None
        if not self._is_verbatim and (value is None) == (self._form.prompt_kind is not None):
            if value is None and self._are_sides_messages:
                return None  # the replies may be whole conversations, which is checked later
            raise mixed_prompt("has no prompt" if value is None else "has a prompt")
        if value is None or column is None:
            return None
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            value = value[0]
        expected = self._form.kind if self._is_verbatim else self._form.prompt_kind
        if isinstance(value, str):
            self._check_kind(column, "text", expected)
            if self._form.is_prompt_dialogue:
                return read_dialogue("prompt", value)
            if not is_clean(value):
                check_side(column, value)
                if not self._is_verbatim and is_dialogue_prompt(value):
                    raise mixed_dialogue(column)
            return value
        messages = self._messages(column, value)
        self._check_kind(column, "conversational", expected)
        return messages

    def texts(self, prompt: Any, paths: list[str], replies: list[str]) -> list[str]:
        """Check text replies together; cut the prompt from them if those of this upload repeat it.

        Raises:
            RowError: some replies begin with the prompt and others do not, or they are dialogues
                unlike most.
        """
        if all(map(is_dialogue, replies)):
            raise mixed_dialogue(paths[0])
        return self._without_prompt(prompt, paths, replies) if type(prompt) is str else replies

    def _without_prompt(self, prompt: str, paths: list[str], replies: list[str]) -> list[str]:
        if not self._form.is_prompt_repeated:
            if len(prompt) >= MIN_REPEATED_PROMPT_CHARACTERS and all(
                reply.startswith(prompt) for reply in replies
            ):
                raise RowError(
                    "prompt_repeated",
                    "the replies begin with the prompt, which would then be read twice",
                    "begin the replies with the prompt in all rows, or in none",
                    column=paths[0],
                )
            return replies
        repeats = [reply.startswith(prompt) for reply in replies]
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
