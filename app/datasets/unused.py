"""Columns and message keys that no part of a pair uses. No text is dropped silently.

The first rule that matches an unused field decides:

1. The caller's ``ignore_columns`` names it: ignore it with a warning.
2. Its name is harmless (``id``, ``source``, ``*_model`` …): ignore it without a warning.
3. It has no text, only null, numbers, booleans or empty values: ignore it.
4. The row's pair contains all its text already, as with a second copy of the prompt: ignore it.
5. Its name shows that it is about the pair (``rationale``, ``metadata`` …): ignore it with a
   warning.
6. Its name shows that it belongs to the pair (``system``, ``context`` …): reject the upload.
7. Its text is the same in all rows: ignore it with a warning.
8. Its text differs between rows: reject the upload.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from app.datasets.row_errors import FileError, image_error, shown

#: Names, as ``plain_name`` writes them, that are ignored without a warning in any shape; ``*``
#: matches any characters.
HARMLESS = (
    "", "unnamed:_*", "__index_level_*", "index", "idx", "*_idx", "*_index",
    "id", "ids", "*_id", "*_ids", "uid", "uuid", "qid", "key",
    "source", "sources", "*_source", "dataset", "dataset_name", "data_source", "split", "subset",
    "model", "models", "*model", "*_models", "*_model_name", "model_name",
    "model_names", "model_type", "model_version", "model_a", "model_b", "model_0", "model_1",
    "model_2",
    "url", "urls", "*_url", "link", "license", "hash", "*_hash", "md5", "sha256", "version",
    "language", "lang", "*_language", "*_lang", "locale",
    "domain", "category", "categories", "subcategory", "topic", "topics", "tags", "task", "type",
    "score", "scores", "*score", "*_scores", "score_*", "scores_*",
    "rating", "ratings", "*rating", "*_ratings", "rating_*", "*ranking",
    "date", "time", "timestamp", "tstamp", "created", "updated", "*_at", "*_date", "*_time",
    "*_timestamp", "annotator", "annotators", "weight", "turn", "turns", "difficulty",
    "num_*", "n_*", "*_count", "*_tokens", "*_length", "*_len", "is_*", "has_*", "status",
    "*.responses.users", "*.responses.status",
)  # fmt: skip
#: Names of text about the pair, such as how it was made and judged: ignored with a warning.
DESCRIPTIVE = (
    "metadata", "meta", "meta_data", "*_metadata", "metadata_*", "annotations", "*_annotations",
    "rationale", "rationales", "*_rationale", "*_rationales", "explanation", "explanations",
    "*_explanation", "justification", "*_justification", "reason", "reasons", "*_reason",
    "feedback", "*_feedback", "feedback_*", "critique", "critiques", "*_critique", "comment",
    "comments", "judgment", "judgement", "*_judgment", "*_judgement", "generations",
    "raw_generation*", "new_generations", "generation_prompt", "labelling_prompt",
    "raw_labelling_response", "*_policy", "*_policies", "all_generated_responses",
    "candidates_completions", "*_suggestion", "*.suggestion", "*.suggestion.*",
)  # fmt: skip
#: Names of columns and message keys that belong to the pair.
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
_BEFORE_REPLY = frozenset(
    {"background", "body", "context", "document", "input", "passage", "persona", "post"}
)
_REASONING = re.compile(r"reasoning|thinking|thought|\bcot\b")
#: Harmless names of columns that hold the prompt in some files.
SOMETIMES_PROMPTS = frozenset({"source", "task", "topic"})
#: Names of columns that hold images, audio or video in any encoding.
MEDIA = frozenset(
    {
        "audio", "audios", "audio_path", "audio_url", "chosen_image", "chosen_images", "image",
        "image_base64", "image_bytes", "image_file", "image_files", "image_path", "image_paths",
        "image_url", "image_urls", "images", "img", "imgs", "pixel_values", "rejected_image",
        "rejected_images", "video", "video_path", "video_url", "videos",
    }
)  # fmt: skip
_MAX_NAMED = 100
_INDEX = re.compile(r"\[\d+\]")
#: Name of a list of messages, or of a list of such lists.
_LIST = re.compile(r"[^\[]*(\[\])+")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def _matcher(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name).replace(r"\*", ".*") for name in names))


_HARMLESS, _DESCRIPTIVE = _matcher(HARMLESS), _matcher(DESCRIPTIVE)


def plain_name(name: str) -> str:
    """Return a name in lower case, with underscores for spaces and hyphens, without a BOM."""
    return re.sub(r"[ -]+", "_", name.replace("\ufeff", "").strip().lower())


def is_harmless(name: str) -> bool:
    """Return whether a field of this name is ignored without a warning in any shape."""
    plain = plain_name(name)
    is_text = plain in MEDIA or _DESCRIPTIVE.fullmatch(plain)
    return not is_text and _HARMLESS.fullmatch(plain) is not None


def is_descriptive(name: str) -> bool:
    """Return whether a field of this name is ignored with a warning in any shape."""
    return _DESCRIPTIVE.fullmatch(plain_name(name)) is not None


class UnusedFields:
    """Checks the unused fields of all rows of one upload.

    ``used`` are the columns that the shape reads (``a.b`` is the key ``b`` of an object ``a``),
    ``harmless`` those that it documents as harmless, and ``descriptive`` those that it ignores with
    a warning. ``meaningful`` are columns that belong to the pair, in addition to ``MEANINGFUL``.
    ``needs_prompt`` means that no column is the prompt: the error then suggests an unused column
    for it.
    """

    def __init__(
        self,
        *,
        used: frozenset[str] = frozenset(),
        harmless: frozenset[str] = frozenset(),
        descriptive: frozenset[str] = frozenset(),
        ignored: frozenset[str] = frozenset(),
        meaningful: frozenset[str] = frozenset(),
        needs_prompt: bool = False,
    ) -> None:
        self._used = used
        self._harmless = harmless
        self._descriptive = descriptive
        self._ignored = ignored
        self._meaningful = meaningful
        self._needs_prompt = needs_prompt
        self._fields: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._first_seen: dict[str, int] = {}  # hashes, because a value may be a megabyte long
        self._roots = {name.partition(".")[0] for name in used if "." in name}
        self.columns: set[str] = set()
        """Ignored fields; ``chosen[].name`` for a key of messages."""
        self.warned: set[str] = set()
        """Fields of ``columns`` that need a warning: ignored on request, or constant text."""

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Check the columns of one row.

        Raises:
            FileError: ignoring a column would lose a part of the pair.
            RowError: ``image_parts``.
        """
        for root in self._roots:
            if isinstance(nested := row.get(root), dict):
                row = {name: value for name, value in row.items() if name != root}
                row |= {f"{root}.{key}": value for key, value in nested.items()}
        suspects, used = self._fields_of(tuple(row))
        if suspects:
            others = [row[name] for name in used]
            lost = [name for name in suspects if self._has_lost_text(name, name, row[name], others)]
            if lost:
                raise _lost_columns_error(lost, needs_prompt=self._needs_prompt)

    def has_suspects(self, layout: tuple[str, ...]) -> bool:
        """Return whether ``check_row`` must check the rows with these columns."""
        # The keys of a column with nested parts are checked one by one; the column itself is used.
        return not self._roots.isdisjoint(layout) or bool(self._fields_of(layout)[0])

    def check_keys(self, path: str, item: Mapping[str, Any], used: Set[str]) -> None:
        """Check the keys of a message, or of an object in it; ``path`` names it, as ``chosen[1]``.

        Raises:
            FileError: ignoring a key would lose a part of the message.
        """
        if item.keys() <= used:
            return
        side = _INDEX.sub("[]", path)
        others = [item[key] for key in used if key in item]
        for key in item.keys() - used:
            if item[key] is None:
                continue
            name = f"{side}.{shown(key)[1:-1]}"
            self._note(name)
            aliases = {key, name, f"messages[]{_LIST.sub('', side, count=1)}.{key}"}
            if not aliases.isdisjoint(self._ignored):
                self.warned.add(name)
            elif not (is_harmless(key) or name in self._harmless) and self._has_lost_text(
                key, name, item[key], others
            ):
                raise _lost_key_error(path, key, name)

    def ask_to_ignore(self, name: str) -> None:
        """Record a column that the caller asked to ignore."""
        self._note(shown(name)[1:-1])
        self.warned.add(shown(name)[1:-1])

    def _fields_of(self, layout: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns that may hold lost text, and the columns that are used."""
        if (known := self._fields.get(layout)) is not None:
            return known
        rest = [name for name in layout if name not in self._used]
        for name in rest:
            self._note(shown(name)[1:-1])
        asked = self._ignored.intersection(rest)  # keys of a used column; others are gone already
        self.warned |= asked
        suspects = (n for n in rest if n in self._meaningful or not self._is_harmless(n))
        fields = (
            tuple(n for n in suspects if n not in asked),
            tuple(n for n in layout if n in self._used),
        )
        if len(self._fields) < _MAX_NAMED:
            self._fields[layout] = fields
        return fields

    def _is_harmless(self, name: str) -> bool:
        return name in self._harmless or is_harmless(name)

    def _has_lost_text(self, key: str, name: str, value: Any, others: list[Any]) -> bool:
        """Return whether a field has text that is in no used field and may matter."""
        if not value or isinstance(value, bool | int | float) or value in others:
            return False
        if plain_name(key) in MEDIA:
            raise image_error(name)
        texts = set(_texts(value))
        if not texts:
            return False
        if texts <= {text for other in others for text in _texts(other)}:
            return False
        if name in self._descriptive or is_descriptive(key.rpartition(".")[2] or key):
            self.warned.add(shown(name)[1:-1])
            return False
        if key.lower() in MEANINGFUL or name in self._meaningful:
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
    """Yield the texts inside a value at any depth, except numbers written as text."""
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


def _lost_columns_error(names: list[str], *, needs_prompt: bool) -> FileError:
    listed = ", ".join(shown(name) for name in names[:10])
    what = "column holds" if len(names) == 1 else "columns hold"
    do = "map it with columns[system]=… (or input, tools)"
    if needs_prompt:
        do = f"map it with columns[prompt]={names[0]}"
    elif names[0].lower() in _BEFORE_REPLY:
        do = f"map it with columns[system]={names[0]} (or input)"
    elif _REASONING.search(names[0].lower()):
        do = "write it into messages, as reasoning_content"
    hint = f"{do}, or set ignore_columns={','.join(names[:10])} to train without it"
    return FileError(
        "unused_column",
        f"the {what} text that no part of the pair uses: {listed}",
        shown(hint, 400)[1:-1],
        column=shown(names[0])[1:-1],
    )


def _lost_key_error(path: str, key: str, name: str) -> FileError:
    return FileError(
        "unused_column",
        f"the message key {shown(key)} holds text that no chat template reads",
        f"write the text into content, or set ignore_columns={name} to train without it",
        column=f"{path}.{shown(key)[1:-1]}",
    )
