"""Checks for data problems that ruin a reward model and are visible in the upload itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from app.datasets.canonical import DatasetWarning
from app.datasets.row_errors import shown
from app.datasets.shapes.column_names import is_prompt_like
from app.datasets.shapes.sample import Sample
from app.datasets.unused import SOMETIMES_PROMPTS, is_harmless, plain_name
from app.domain.warnings import WarningCode

LINES_NAMED = 10
_MAX_SOURCES = 32
_COLUMNS_NAMED = 5
_MIN_ROWS = 3
_ROWS_LOOKED_AT = 64
_SENTENCE_WORDS = 4
_PROMPT_ROLES = ("system", "developer", "user")
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
#: Beginnings of turns in texts that a chat template has rendered already.
_RENDERED = re.compile(
    r"<\|(im_start|start_header_id|start_of_role|role_start|START_OF_TURN_TOKEN|turn|start)\|?>"
    r"|<\|(user|assistant|system|human)\|>|<｜(User|Assistant)｜>|<start_of_turn>|\[INST\]",
    re.ASCII | re.IGNORECASE,
)


def prompt_columns(sample: Sample, used: frozenset[str], ignored: Iterable[str]) -> list[str]:
    """Return the columns that may hold the prompt and that the shape does not read.

    Their names, or whole sentences in a column such as ``task``, suggest it. ``ignored`` are
    columns that the caller asked to ignore; the sample does not contain them.
    """
    taken = {name.partition(".")[0] for name in used}
    rest = {name for name in sample.columns if name not in taken}.union(ignored)
    return sorted(
        name
        for name in rest
        if (is_prompt_like(name) and not is_harmless(name)) or _holds_sentences(sample, name)
    )


def _holds_sentences(sample: Sample, name: str) -> bool:
    """Return whether a column, whose name may mean a category or the prompt, holds sentences."""
    if plain_name(name) not in SOMETIMES_PROMPTS:
        return False
    values = list(sample.values(name))
    long = [v for v in values if isinstance(v, str) and len(v.split()) >= _SENTENCE_WORDS]
    return 2 * len(long) > len(values)


class Lint:
    """Checks each stored row; ``warnings`` returns the findings.

    ``prompt_columns`` are unused columns that may hold the prompt, if no column is the prompt.
    """

    def __init__(self, sample: Sample, prompt_columns: Sequence[str] = ()) -> None:
        self._prompt_columns = prompt_columns
        self._source_columns = _source_columns(sample)
        self._sources: tuple[set[str], set[str]] = (set(), set())
        self._rows = 0
        self._found: dict[WarningCode, tuple[int, list[int]]] = {}
        self._rendered = 0

    def look(self, line: int, row: Mapping[str, Any], made: Mapping[str, Any]) -> None:
        """Check one row: ``row`` is the uploaded row, ``made`` the preference row made of it."""
        self._rows += 1
        if self._source_columns is not None:
            self._look_at_sources(row, self._source_columns)
        if "replies" in made:
            return
        chosen, rejected = made["chosen"], made["rejected"]
        if type(chosen) is str:
            if self._rows <= _ROWS_LOOKED_AT:
                self._rendered += _RENDERED.search(made.get("prompt") or chosen) is not None
            self._compare(line, chosen, rejected)
            return
        if ("prompt" not in made or len(chosen) > 1 or len(rejected) > 1) and _differ(made):
            differ = WarningCode.PROMPTS_DIFFER
            self._note(WarningCode.PROMPT_UNUSED if self._prompt_columns else differ, line)
        ours, theirs = chosen[-1], rejected[-1]
        if len(ours) == len(theirs) == 2:
            self._compare(line, ours["content"], theirs["content"])

    def _look_at_sources(self, row: Mapping[str, Any], columns: tuple[str, str]) -> None:
        chosen, rejected = self._sources
        for column, seen, other in ((columns[0], chosen, rejected), (columns[1], rejected, chosen)):
            source = str(row.get(column))[:200]
            seen.add(source)
            if source in other or len(seen) > _MAX_SOURCES:
                self._source_columns = None  # both sides have mixed sources, as they should

    def warnings(self) -> Iterator[DatasetWarning]:
        """Yield a warning for each finding."""
        for code, (count, lines) in self._found.items():
            names = ", ".join(shown(name) for name in self._prompt_columns[:_COLUMNS_NAMED])
            message = _MESSAGES[code].format(count=count, rows=self._rows, columns=names)
            yield DatasetWarning(code=code, message=message, lines=lines)
        if (said := self._one_sided()) is not None:
            yield DatasetWarning(code=WarningCode.SOURCES_ONE_SIDED, message=said)

    @property
    def is_rendered(self) -> bool:
        """Whether most of the first texts contain control tokens of a chat template."""
        return 2 * self._rendered > min(self._rows, _ROWS_LOOKED_AT)

    def _one_sided(self) -> str | None:
        """Return a message if the source of a reply alone decides whether it is chosen."""
        if self._source_columns is None or self._rows < _MIN_ROWS:
            return None
        always = [
            f"{column} is {shown(next(iter(seen)))}"
            for column, seen in zip(self._source_columns, self._sources, strict=True)
            if len(seen) == 1
        ]
        if not always:
            return None
        return (
            f"in all {self._rows} rows {' and '.join(always)}, and never on the other side: the "
            "reward model may learn to tell the sources apart instead of good replies from bad ones"
        )

    def _compare(self, line: int, ours: str, theirs: str) -> None:
        """Note a pair that differs only in text that most chat templates strip."""
        # Nearly all pairs end differently, which is cheap to check.
        if ours[-1] != theirs[-1] and not (ours[-1].isspace() or theirs[-1].isspace()):
            return
        if ours.rstrip()[-8:] != theirs.rstrip()[-8:]:
            return
        if _stripped(ours) == _stripped(theirs):
            self._note(WarningCode.DIFFERENCE_STRIPPED, line)

    def _note(self, code: WarningCode, line: int) -> None:
        count, lines = self._found.get(code, (0, []))
        if len(lines) < LINES_NAMED:
            lines.append(line)
        self._found[code] = (count + 1, lines)


_MESSAGES = {
    WarningCode.PROMPTS_DIFFER: "in {count} of {rows} rows chosen and rejected answer different "
    "prompts: what is learned is which prompt is better, not which reply",
    WarningCode.PROMPT_UNUSED: "in {count} of {rows} rows chosen and rejected begin with different "
    "prompts, although the upload has a column that may be the prompt of both and is not used: "
    "{columns}",
    WarningCode.DIFFERENCE_STRIPPED: "in {count} of {rows} rows chosen and rejected differ only in "
    "white space around the text or in reasoning between <think> and </think>, which most chat "
    "templates strip: nothing can be learned from them then",
}


def _source_columns(sample: Sample) -> tuple[str, str] | None:
    """Return the two columns that name the sources of chosen and rejected, or None."""
    for column in sample.columns:
        if not column.startswith("chosen"):
            continue
        rest = column.removeprefix("chosen")
        other = f"rejected{rest}"
        if other in sample.columns and re.search(r"model|source|policy|generator|author", rest):
            return column, other
    return None


def _differ(made: Mapping[str, Any]) -> bool:
    """Return whether the replies of a conversational row answer different prompts."""
    chosen, prompt = made["chosen"], made.get("prompt")
    if _prompts(chosen) != _prompts(made["rejected"]):
        return True
    return prompt is not None and prompt[-1]["role"] == chosen[0]["role"] == "user"


def _prompts(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["content"] for message in messages if message["role"] in _PROMPT_ROLES]


def _stripped(text: str) -> str:
    return _THINKING.sub("", text).strip()
