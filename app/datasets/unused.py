"""Columns and message keys that no part of a pair comes from: nothing is lost silently.

A field that is not used is one of these:

1. It is on the caller's ``ignore_columns``: ignored, and said in a warning.
2. Its name is harmless (``id``, ``source``, ``*_model`` …): ignored quietly.
3. It has no text: null, empty, numbers, booleans.
4. All its text already stands in the row's pair, as a second copy of the prompt does.
5. Its name says that it belongs to the pair (``system``, ``context`` …): the upload is refused.
6. Its text is the same in all rows: ignored, and said in a warning.
7. Its text differs between rows: the upload is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.datasets.content_parts import image_error
from app.datasets.row_errors import FileError, shown

#: Names that are ignored quietly, in any shape; ``*`` stands for any characters.
HARMLESS = (
    "", "unnamed: *", "__index_level_*", "index", "idx", "*_idx", "*_index",
    "id", "ids", "*_id", "*_ids", "*-id", "uid", "uuid", "qid", "key",
    "source", "sources", "*_source", "dataset", "dataset_name", "data_source", "split", "subset",
    "model", "models", "*model", "*_models", "*_model_name", "model_*",
    "url", "urls", "*_url", "link", "license", "hash", "*_hash", "md5", "sha256", "version",
    "language", "lang", "*_language", "*_lang", "locale",
    "domain", "category", "categories", "subcategory", "topic", "topics", "tags", "task", "type",
    "score", "scores", "*score", "*_scores", "score_*", "scores_*",
    "rating", "ratings", "*rating", "*_ratings", "rating_*", "*ranking",
    "date", "time", "timestamp", "tstamp", "created", "updated", "*_at", "*_date", "*_time",
    "*_timestamp", "annotator", "annotators", "weight", "turn", "turns", "difficulty",
    "num_*", "n_*", "*_count", "*_tokens", "*_length", "*_len", "is_*", "has_*",
)  # fmt: skip
#: Names that say that a column or message key belongs to the pair.
MEANINGFUL = frozenset(
    {
        "answer", "answers", "background", "body", "chat", "chat_template_kwargs", "completion",
        "completions", "context", "contexts", "conversation", "conversations", "cot", "dialog",
        "dialogue", "document", "documents", "examples", "few_shot", "functions", "history",
        "input", "inputs", "instruction", "instructions", "message", "messages", "output",
        "outputs", "passage", "passages", "persona", "post", "prompt", "query", "question",
        "reasoning", "reasoning_content", "replies", "reply", "response", "responses", "schema",
        "system", "system_message", "system_prompt", "thinking", "thought", "thoughts",
        "tool_calls", "tools",
    }
)  # fmt: skip
#: Names of columns that hold pictures, sound or films, whatever the form.
MEDIA = frozenset({"audio", "audios", "image", "images", "video", "videos"})
_MAX_NAMED = 100
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def _matcher(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name).replace(r"\*", ".*") for name in names))


_HARMLESS = _matcher(HARMLESS)


def is_harmless(name: str) -> bool:
    """Whether a field of this name is ignored quietly in any shape."""
    return _HARMLESS.fullmatch(name.lower()) is not None


class UnusedFields:
    """Looks at the fields of each row that the shape does not use. One for each upload.

    ``used`` are the columns that the shape reads, ``a.b`` for the key ``b`` of an object ``a``;
    ``harmless`` are those that it documents as harmless. ``needs_prompt`` says that no column is
    the prompt, so that one of those left over may be it.
    """

    def __init__(
        self,
        *,
        used: frozenset[str] = frozenset(),
        harmless: frozenset[str] = frozenset(),
        ignored: frozenset[str] = frozenset(),
        needs_prompt: bool = False,
    ) -> None:
        self._used = used
        self._harmless = harmless
        self._ignored = ignored
        self._needs_prompt = needs_prompt
        self._fields: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._first_seen: dict[str, int] = {}  # hashes: a value may have a megabyte
        self._roots = {name.partition(".")[0] for name in used if "." in name}
        self.columns: set[str] = set()
        """All that was ignored; ``chosen[].name`` for a key of messages."""
        self.warned: set[str] = set()
        """Those of ``columns`` that deserve a warning: asked for, or constant text."""

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Decide about the columns of one row.

        Raises:
            FileError: some of them cannot be left out without losing a part of the pair.
            RowError: ``image_parts``.
        """
        for root in self._roots:
            if isinstance(nested := row.get(root), dict):
                row = {name: value for name, value in row.items() if name != root}
                row |= {f"{root}.{key}": value for key, value in nested.items()}
        suspects, used = self._fields_of(tuple(row))
        if suspects:
            others = [row[name] for name in used]
            lost = [name for name in suspects if self._is_lost(name, name, row[name], others)]
            if lost:
                raise _lost_columns(lost, needs_prompt=self._needs_prompt)

    def has_suspects(self, layout: tuple[str, ...]) -> bool:
        """Whether ``check_row`` must see the rows with these columns."""
        # Rows with nested parts are looked at key by key: the column itself is not left out.
        return not self._roots.isdisjoint(layout) or bool(self._fields_of(layout)[0])

    def check_message(self, path: str, message: Mapping[str, Any], used: set[str]) -> None:
        """Decide about the keys of one message; ``path`` names it, such as ``chosen[1]``.

        Raises:
            FileError: a key cannot be left out without losing a part of the message.
        """
        side = path[: path.rindex("[")]
        for key in message.keys() - used:
            name = f"{side}[].{shown(key)[1:-1]}"
            if message[key] is None:
                continue
            self._note(name)
            if key in self._ignored or {name, f"messages[].{key}"} & self._ignored:
                self.warned.add(name)
            elif not (is_harmless(key) or name in self._harmless) and self._is_lost(
                key, name, message[key], [message[other] for other in used]
            ):
                raise _lost_key(path, key, name)

    def ask_to_ignore(self, name: str) -> None:
        """Note a column that the caller asked to ignore."""
        self._note(shown(name)[1:-1])
        self.warned.add(shown(name)[1:-1])

    def _fields_of(self, layout: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of these columns those that may be lost, and those that are used."""
        if (known := self._fields.get(layout)) is not None:
            return known
        rest = [name for name in layout if name not in self._used]
        for name in rest:
            self._note(shown(name)[1:-1])
        fields = (
            tuple(n for n in rest if n not in self._harmless and not is_harmless(n)),
            tuple(n for n in layout if n in self._used),
        )
        if len(self._fields) < _MAX_NAMED:
            self._fields[layout] = fields
        return fields

    def _is_lost(self, key: str, name: str, value: Any, others: list[Any]) -> bool:
        """Whether a field has text that is in no other field and may matter."""
        if not value or isinstance(value, bool | int | float) or value in others:
            return False
        if key.lower() in MEDIA:
            raise image_error(name)
        texts = set(_texts(value))
        if not texts:
            return False
        if texts <= {text for other in others for text in _texts(other)}:
            return False
        if key.lower() in MEANINGFUL:
            return True
        seen = hash(repr(value))
        if len(self._first_seen) >= _MAX_NAMED or self._first_seen.setdefault(name, seen) != seen:
            return True
        self.warned.add(shown(name)[1:-1])
        return False

    def _note(self, name: str) -> None:
        if len(self.columns) < _MAX_NAMED:
            self.columns.add(name)


def _texts(value: Any) -> Iterator[str]:
    """The texts inside a value, at any depth; numbers in the form of text are none."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if (text := item.strip()) and not _NUMBER.fullmatch(text):
                yield text
        elif isinstance(item, dict):
            stack += [each for key, each in item.items() if key not in ("role", "from", "type")]
        elif isinstance(item, list):
            stack += item


def _lost_columns(names: list[str], *, needs_prompt: bool) -> FileError:
    listed = ", ".join(shown(name) for name in names[:10])
    what = "column holds" if len(names) == 1 else "columns hold"
    part = f"columns[prompt]={names[0]}" if needs_prompt else "columns[system]=… (or input, tools)"
    hint = f"map it with {part}, or say ignore_columns={','.join(names[:10])} to train without it"
    return FileError(
        "unused_column",
        f"the {what} text that no part of the pair comes from: {listed}",
        shown(hint, 400)[1:-1],
        column=shown(names[0])[1:-1],
    )


def _lost_key(path: str, key: str, name: str) -> FileError:
    return FileError(
        "unused_column",
        f"the message key {shown(key)} holds text that no chat template reads",
        f"write the text into content, or say ignore_columns={name} to train without it",
        column=f"{path}.{shown(key)[1:-1]}",
    )
