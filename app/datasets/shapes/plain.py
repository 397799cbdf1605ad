"""Fast paths for pairs in the usual forms, which most rows of most uploads have.

A fast path reads a whole row with few calls. It returns None if the row needs the general path
(``RowAssembler._pair``), which then reads the row from the beginning, and finds its errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.datasets.conversations import Message, read_messages
from app.datasets.shapes.dialogues import ASSISTANT, HUMAN, turns
from app.datasets.shapes.file_form import FileForm
from app.datasets.shapes.sample import value_at
from app.datasets.shapes.shape import Parts
from app.datasets.texts import is_clean
from app.datasets.unused import UnusedFields

Row = Mapping[str, Any]
PlainReader = Callable[[int, Row], dict[str, Any] | None]
#: Returns the columns of the better and the worse reply, and the margin of the label.
Sides = Callable[[Row], tuple[str, str, float | None]]
_SYSTEM_ROLES = ("system", "developer")


def plain_reader(
    parts: Parts, form: FileForm, unused: UnusedFields, sides: Sides
) -> PlainReader | None:
    """Return the fast path for the pairs of an upload, or None if its form has none."""
    columns = form.columns
    if form.row_form != "pairs" or form.is_prompt_dialogue or form.is_prompt_repeated:
        return None
    kinds = form.prompt_kind, form.side_kind, form.kind
    if form.are_sides_dialogues:
        is_alone = form.prompt_kind is None and parts.label is None and not parts.is_verbatim
        return _Dialogues(form) if is_alone else None
    if columns.prompt and kinds == ("text", "text", "text"):
        return _Texts(form, sides)
    if columns.prompt and kinds == ("conversational",) * 3 and parts.label is None:
        return _Messages(form, unused)
    if parts.is_verbatim or form.kind == "text":
        return None
    if form.side_kind == "text":
        return _TextsAsChat(form, unused, sides) if form.prompt_kind and columns.prompt else None
    return _Conversations(form, unused, sides) if form.prompt_kind != "conversational" else None


def reads_system(reader: PlainReader | None) -> bool:
    """Return whether a fast path reads rows with a system text."""
    return isinstance(reader, _TextsAsChat)


def _pair(
    line: int, prompt: Any, chosen: Any, rejected: Any, margin: float | None
) -> dict[str, Any]:
    """Return a row with its keys in the order in which they are stored."""
    if margin is None:
        return {"chosen": chosen, "line": line, "prompt": prompt, "rejected": rejected}
    return {
        "chosen": chosen, "line": line, "margin": margin, "prompt": prompt, "rejected": rejected,
    }  # fmt: skip


def _reply(text: str) -> list[Message]:
    return [{"content": text, "role": "assistant"}]


class _Texts:
    """A prompt and two replies that are texts, in a dataset of texts."""

    def __init__(self, form: FileForm, sides: Sides) -> None:
        columns = form.columns
        self._prompt_at = str(columns.prompt)
        self._chosen_at, self._rejected_at = columns.chosen, columns.rejected
        self._sides = sides

    def __call__(self, line: int, row: Row) -> dict[str, Any] | None:
        chosen_at, rejected_at, margin = self._chosen_at, self._rejected_at, None
        if chosen_at is None or rejected_at is None:
            chosen_at, rejected_at, margin = self._sides(row)
        prompt, chosen = row.get(self._prompt_at), row.get(chosen_at)
        rejected = row.get(rejected_at)
        if not (type(prompt) is type(chosen) is type(rejected) is str):
            return None
        if not (is_clean(prompt) and is_clean(chosen) and is_clean(rejected)):
            return None
        if chosen == rejected or chosen.startswith(prompt):
            return None
        return _pair(line, prompt, chosen, rejected, margin)


class _Messages:
    """A prompt and two replies that are lists of messages."""

    def __init__(self, form: FileForm, unused: UnusedFields) -> None:
        columns = form.columns
        self._columns = str(columns.prompt), str(columns.chosen), str(columns.rejected)
        self._unused = unused

    def __call__(self, line: int, row: Row) -> dict[str, Any] | None:
        prompt_at, chosen_at, rejected_at = self._columns
        prompt, chosen, rejected = row.get(prompt_at), row.get(chosen_at), row.get(rejected_at)
        if not (type(prompt) is type(chosen) is type(rejected) is list):
            return None
        if not (prompt and chosen and rejected):
            return None
        chosen = read_messages(chosen_at, chosen, self._unused)
        rejected = read_messages(rejected_at, rejected, self._unused)
        prompt = read_messages(prompt_at, prompt, self._unused)
        if prompt[0]["role"] == "assistant" or chosen == rejected:
            return None
        for message in (chosen[0], chosen[-1], rejected[0], rejected[-1]):
            if message["role"] != "assistant":
                return None
        return _pair(line, prompt, chosen, rejected, None)


class _TextsAsChat:
    """Two replies that are texts, in a conversational dataset; the prompt is text or messages."""

    def __init__(self, form: FileForm, unused: UnusedFields, sides: Sides) -> None:
        self._prompt_at = str(form.columns.prompt)
        self._prompt_type = str if form.prompt_kind == "text" else list
        self._system_at = form.columns.system
        self._unused = unused
        self._sides = sides

    def __call__(self, line: int, row: Row) -> dict[str, Any] | None:
        chosen_at, rejected_at, margin = self._sides(row)
        chosen, rejected = row.get(chosen_at), row.get(rejected_at)
        if not (type(chosen) is type(rejected) is str):
            return None
        if not (is_clean(chosen) and is_clean(rejected)) or chosen == rejected:
            return None
        prompt = self._prompt(row.get(self._prompt_at), chosen)
        if prompt is not None and self._system_at is not None:
            prompt = self._with_system(value_at(row, self._system_at), prompt)
        if prompt is None:
            return None
        return _pair(line, prompt, _reply(chosen), _reply(rejected), margin)

    def _prompt(self, value: Any, chosen: str) -> list[Message] | None:
        if type(value) is not self._prompt_type or not value:
            return None
        if isinstance(value, str):
            if not is_clean(value) or chosen.startswith(value):
                return None
            return [{"content": value, "role": "user"}]
        prompt = read_messages(self._prompt_at, value, self._unused)
        return None if prompt[0]["role"] == "assistant" else prompt

    def _with_system(self, value: Any, prompt: list[Message]) -> list[Message] | None:
        if value is None or value == "":
            return prompt
        if type(value) is not str or not is_clean(value) or prompt[0]["role"] in _SYSTEM_ROLES:
            return None
        return [{"content": value, "role": "system"}, *prompt]


class _Conversations:
    """Two whole conversations with the same beginning, which a text prompt may repeat."""

    def __init__(self, form: FileForm, unused: UnusedFields, sides: Sides) -> None:
        self._prompt_at = form.columns.prompt
        self._has_prompt = form.prompt_kind is not None
        self._unused = unused
        self._sides = sides

    def __call__(self, line: int, row: Row) -> dict[str, Any] | None:
        chosen_at, rejected_at, margin = self._sides(row)
        chosen, rejected = row.get(chosen_at), row.get(rejected_at)
        if not (type(chosen) is type(rejected) is list and len(chosen) > 1 and len(rejected) > 1):
            return None
        chosen = read_messages(chosen_at, chosen, self._unused)
        rejected = read_messages(rejected_at, rejected, self._unused)
        if not self._begin_alike(row, chosen[0], rejected[0]):
            return None
        if chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
            return None
        count, most = 1, min(len(chosen), len(rejected)) - 1
        while count < most and chosen[count] == rejected[count]:
            count += 1
        prompt, chosen, rejected = chosen[:count], chosen[count:], rejected[count:]
        if chosen == rejected:
            return None
        return _pair(line, prompt, chosen, rejected, margin)

    def _begin_alike(self, row: Row, ours: Message, theirs: Message) -> bool:
        """Return whether both conversations begin with the same message, and with the prompt."""
        if ours != theirs:
            return False
        prompt = None if self._prompt_at is None else value_at(row, self._prompt_at)
        if not self._has_prompt:
            return prompt is None
        if type(prompt) is not str or not is_clean(prompt):
            return False
        return bool(ours["role"] == "user" and ours["content"] == prompt)


class _Dialogues:
    """Two texts with Human: and Assistant: turns, which differ in the last turn alone."""

    def __init__(self, form: FileForm) -> None:
        columns = form.columns
        self._prompt_at = columns.prompt
        self._columns = str(columns.chosen), str(columns.rejected)

    def __call__(self, line: int, row: Row) -> dict[str, Any] | None:
        chosen_at, rejected_at = self._columns
        chosen, rejected = row.get(chosen_at), row.get(rejected_at)
        if not (type(chosen) is type(rejected) is str):
            return None
        if self._prompt_at is not None and value_at(row, self._prompt_at) is not None:
            return None
        end = chosen.rfind(ASSISTANT)
        start = end + len(ASSISTANT)
        if end < 0 or not rejected.startswith(chosen[:start]):
            return None
        ours, theirs = chosen[start:], rejected[start:]
        if max(ours.rfind(HUMAN), theirs.rfind(HUMAN), theirs.rfind(ASSISTANT)) >= 0:
            return None
        ours, theirs = ours.strip(), theirs.strip()
        prompt = turns(chosen[:end])
        if not (prompt and ours and theirs) or ours == theirs:
            return None
        if "\0" in chosen or "\0" in rejected:
            return None
        for message in prompt:
            if not message["content"]:
                return None
        return _pair(line, prompt, _reply(ours), _reply(theirs), None)
