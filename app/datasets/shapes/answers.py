"""Read several replies to one prompt, ordered from best to worst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from app.datasets.row_errors import RowError, kind_of, shown
from app.datasets.shapes.labels import read_number
from app.datasets.shapes.sample import value_at
from app.datasets.texts import is_clean
from app.datasets.unused import UnusedFields

#: Limit on replies of one row: the number of pairs grows with its square.
MAX_REPLIES = 64
_TEXT_KEYS = (
    "answer",
    "text",
    "content",
    "response",
    "completion",
    "output",
    "message",
    "reply",
    "body",
)
_RANK_KEYS = ("rank",)
_SCORE_KEYS = ("score", "overall_score", "rating", "reward", "pm_score", "votes")


class Reply(NamedTuple):
    """A reply whose content is not read yet; rank 1 is best; ``path`` names it in errors."""

    path: str
    content: Any
    rank: int
    score: float | None = None

    def stored(self, content: Any) -> dict[str, Any]:
        """Return the reply as it is stored, with its content as it was read."""
        stored = {"rank": self.rank, "reply": content}
        return stored if self.score is None else stored | {"score": self.score}


class Numbers(NamedTuple):
    """A separate list of scores or ranks (lower is better), one for each reply."""

    column: str
    values: Any
    is_rank: bool


def rank_sides(row: Mapping[str, Any], chosen: str, rejected: str) -> list[Reply]:
    """Return the replies of two columns that may hold lists; all chosen ones have rank 1, others 2.

    Raises:
        RowError: a column is null or empty, or there are too many replies.
    """
    replies = []
    for rank, column in enumerate((chosen, rejected), 1):
        value = value_at(row, column)
        if value is None or value == []:
            raise RowError(
                "missing_column",
                f"{column} has no reply",
                "each row needs at least one chosen and one rejected reply",
                column=column,
            )
        items = value if _is_list_of_replies(value) else [value]
        replies += [Reply(f"{column}[{index}]", item, rank) for index, item in enumerate(items)]
    _check_count(chosen, len(replies))
    return replies


def plain_sides(prompt: Any, chosen: Any, rejected: Any) -> list[dict[str, Any]] | None:
    """Return the stored replies of a row whose prompt and lists of replies are usual texts.

    A fast path for files of texts. Return None if the row needs ``rank_sides``.
    """
    if not (type(chosen) is type(rejected) is list and chosen and rejected):
        return None
    if type(prompt) is not str or not is_clean(prompt):
        return None
    for reply in (*chosen, *rejected):
        if type(reply) is not str or not is_clean(reply) or reply.startswith(prompt):
            return None
    if len(chosen) + len(rejected) > MAX_REPLIES:
        return None
    sides = ((1, chosen), (2, rejected))
    return [{"rank": rank, "reply": reply} for rank, replies in sides for reply in replies]


def read_answers(
    column: str, value: Any, unused: UnusedFields, numbers: Numbers | None = None
) -> list[Reply]:
    """Read a list of replies: texts from best to worst, or objects with a rank or a score.

    ``numbers`` is a separate list with one number or truth value per text.
    Other keys of the objects are passed to ``unused``. The result is sorted, best first.

    Raises:
        RowError: the list is invalid, or ``tie`` if no reply is better than another.
    """
    if not isinstance(value, list) or len(value) < 2:
        raise RowError(
            "wrong_type",
            f"found {kind_of(value)}" + (" of fewer than 2" if isinstance(value, list) else ""),
            "give a list of two or more answers",
            column=column,
        )
    _check_count(column, len(value))
    if numbers is not None:
        found = _numbered(column, value, numbers)
    elif all(isinstance(item, str | list) for item in value):
        return [Reply(f"{column}[{index}]", text, index + 1) for index, text in enumerate(value)]
    else:
        found = [_answer(f"{column}[{index}]", item, unused) for index, item in enumerate(value)]
    ranks = [answer.rank for answer in found if answer.rank is not None]
    if 0 < len(ranks) < len(found):
        raise _not_ranked(column, "ranks in some answers and scores in others")
    order = ranks or [-answer.score for answer in found if answer.score is not None]
    places = {number: place for place, number in enumerate(sorted(set(order)), 1)}
    if len(places) < 2:
        raise RowError(
            "tie",
            "no answer is better than another",
            "leave the row out; there is nothing to learn from it",
            column=column,
        )
    replies = [
        Reply(answer.path, answer.content, places[number], answer.score)
        for answer, number in zip(found, order, strict=True)
    ]
    return sorted(replies, key=lambda reply: reply.rank)


def contents(value: Any) -> Iterator[Any]:
    """Yield the text or the messages of each answer in a list; an object without any gives None."""
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            key = text_key(item)
            yield None if key is None else item[key]
        else:
            yield item


def text_key(item: Mapping[str, Any]) -> str | None:
    """Return the key that holds the text of an answer, or None."""
    return next((key for key in _TEXT_KEYS if item.get(key) is not None), None)


def is_ranked(value: Any) -> bool:
    """Return whether a value is a list of objects that each have a text and a rank or score."""
    return has_texts(value) and all(
        not item.keys().isdisjoint((*_RANK_KEYS, *_SCORE_KEYS)) for item in value
    )


def has_texts(value: Any) -> bool:
    """Return whether a value is a list of two or more objects that each have a text."""
    if not isinstance(value, list) or len(value) < 2:
        return False
    return all(
        isinstance(item, dict) and any(isinstance(item.get(key), str) for key in _TEXT_KEYS)
        for item in value
    )


class _Answer(NamedTuple):
    path: str
    content: Any
    rank: float | None
    score: float | None


def _numbered(column: str, value: list[Any], given: Numbers) -> list[_Answer]:
    at, values, is_rank = given
    if not isinstance(values, list) or len(values) != len(value):
        what = "ranks" if is_rank else "scores"
        found = f"{len(values)} {what}" if isinstance(values, list) else kind_of(values)
        raise _not_ranked(at, f"found {found} for {len(value)} answers")
    numbers = [float(each) if isinstance(each, bool) else read_number(each) for each in values]
    if None in numbers:
        index = numbers.index(None)
        raise _not_ranked(f"{at}[{index}]", f"found {kind_of(values[index])}, not a number")
    return [
        _Answer(
            f"{column}[{index}]", item, number if is_rank else None, None if is_rank else number
        )
        for index, (item, number) in enumerate(zip(value, numbers, strict=True))
    ]


def _answer(path: str, item: Any, unused: UnusedFields) -> _Answer:
    if not isinstance(item, dict):
        raise _not_ranked(path, f"found {kind_of(item)}")
    texts = [key for key in _TEXT_KEYS if item.get(key) is not None]
    if not texts:
        names = ", ".join(shown(key) for key in list(item)[:8])
        raise _not_ranked(path, f"found no text (the answer has: {names})")
    text = f"{path}.{texts[0]}", item[texts[0]]
    rank, score = (_number(path, item, keys) for keys in (_RANK_KEYS, _SCORE_KEYS))
    if rank is None and score is None:
        raise _not_ranked(path, "found neither rank nor score")
    unused.check_keys(path, item, {texts[0], *_RANK_KEYS, *_SCORE_KEYS})
    return _Answer(*text, rank, score)


def _number(path: str, item: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    key = next((key for key in keys if item.get(key) is not None), None)
    if key is None:
        return None
    if (number := read_number(item[key])) is None:
        raise _not_ranked(f"{path}.{key}", f"found {kind_of(item[key])}, not a number")
    return number


def _is_list_of_replies(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str | list) for item in value)


def _check_count(column: str, count: int) -> None:
    if count > MAX_REPLIES:
        raise RowError(
            "too_many_replies",
            f"found {count} replies; a row may have {MAX_REPLIES}",
            "keep the best and the worst of them, or split the row",
            column=column,
        )


def _not_ranked(path: str, found: str) -> RowError:
    return RowError(
        "invalid_ranks",
        found,
        'write each answer as {"answer": "…", "rank": 1} (1 is best), or with a score (higher is '
        "better)",
        column=path,
    )
