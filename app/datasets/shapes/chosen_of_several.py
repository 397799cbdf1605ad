"""Shapes with several samples for a text and the index of the best one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.datasets.row_errors import RowError, kind_of, shown
from app.datasets.shapes.labels import read_number
from app.datasets.shapes.sample import Sample, rewritten
from app.datasets.shapes.shape import Parts, Shape

_SIDED = Parts(prompt=("prompt",), chosen=("chosen",), rejected=("rejected",))
_SAMPLED = Parts(prompt=("query",), chosen=("chosen",), rejected=("rejected",))
_SAMPLE = re.compile(r"sample_?(\d)")
#: Keys that are read, or that are about the post or the summary.
_INFO = frozenset({"article", "id", "post", "site", "subreddit", "title"})
_SUMMARY = frozenset({"note", "policy", "text"})


def _are_summaries(sample: Sample) -> Parts | None:
    return _SIDED if all(map(sample.has, ("info", "summaries", "choice"))) else None


def _with_post(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return prompt, chosen and rejected of a comparison of summaries.

    Raises:
        RowError: the row has no text, or no choice between its summaries.
    """
    info, items = row.get("info"), row.get("summaries")
    items = items if isinstance(items, list) else []
    texts = [item.get("text") if isinstance(item, dict) else None for item in items]
    better, worse = _split("choice", row.get("choice"), dict(enumerate(texts)))
    fields = info if isinstance(info, dict) else {}
    forum = fields.get("subreddit")
    parts = (
        ("SUBREDDIT", f"r/{forum}" if forum else None),
        ("TITLE", fields.get("title")),
        ("POST", fields.get("post")),
        ("ARTICLE", fields.get("article")),
    )
    told = [f"{name}: {text}" for name, text in parts if isinstance(text, str) and text.strip()]
    if not fields.get("post") and not fields.get("article"):
        raise RowError("empty_text", "the text is empty", "leave out the row", column="info.post")
    prompt = "\n\n".join([*told, "TL;DR:"])
    used = ("info", "summaries", "choice")
    unused = {
        "info": {key: value for key, value in fields.items() if key not in _INFO},
        "summaries": [
            {key: value for key, value in item.items() if key not in _SUMMARY}
            for item in items
            if isinstance(item, dict) and not item.keys() <= _SUMMARY
        ],
    }
    made = rewritten(row, used, prompt=prompt, chosen=better, rejected=worse)
    return made | {name: value for name, value in unused.items() if value}


def _are_samples(sample: Sample) -> Parts | None:
    """Return the parts if the samples are numbered from 0: else ``best`` could count from 0 too."""
    numbers = {int(match[1]) for name in sample.columns if (match := _SAMPLE.fullmatch(name))}
    has_rest = sample.has("query") and sample.has("best")
    return _SAMPLED if len(numbers) > 1 and 0 in numbers and has_rest else None


def _with_best_sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the best sample as chosen and the others as rejected.

    Raises:
        RowError: ``best`` is not the number of a sample.
    """
    samples: dict[int, Any] = {}
    used = {"best"}
    for name in sorted(row):
        if (match := _SAMPLE.fullmatch(name)) and (number := int(match[1])) not in samples:
            used.add(name)  # sample_0 beside sample0 is no sample, and is refused later
            samples[number] = row[name]
    present = {number: text for number, text in samples.items() if text is not None}
    better, worse = _split("best", row.get("best"), present)
    return rewritten(row, used, chosen=better, rejected=worse)


def _split(column: str, value: Any, items: Mapping[int, Any]) -> tuple[Any, Any]:
    """Return the item with the number ``value``, and the others: one, or a list of several."""
    number = read_number(value)
    if number is None or number not in items:
        found = shown(str(value)) if isinstance(value, str | int | float) else kind_of(value)
        raise RowError(
            "invalid_label",
            f"found {found} for {len(items)} texts",
            "give the number of the best one, which starts at 0",
            column=column,
        )
    others = [item for index, item in items.items() if index != number]
    return items[int(number)], others[0] if len(others) == 1 else others


CHOSEN_OF_SEVERAL: tuple[Shape, ...] = (
    Shape(
        name="summarize_from_feedback",
        summary="Two `summaries` of a post or an article; `choice` is the index of the better one. "
        "The prompt is the text with its title and subreddit, and `TL;DR:`.",
        seen_in="openai/summarize_from_feedback, comparisons",
        parts=_SIDED,
        find=_are_summaries,
        convert=_with_post,
        harmless=frozenset({"worker", "batch", "extra"}),
        examples=(
            {
                "info": {
                    "id": "t3_1",
                    "post": "What is 2+2?",
                    "title": "Sums",
                    "subreddit": "math",
                },
                "summaries": [
                    {"text": "It is 5.", "policy": "sup", "note": ""},
                    {"text": "It is 4.", "policy": "ref", "note": ""},
                ],
                "choice": 1,
                "worker": "w",
            },
        ),
    ),
    Shape(
        name="best_sample",
        summary="Samples in columns that are numbered from 0; `best` is the number of the best "
        "one. Stored as ranked rows in which the best one is better than all others.",
        seen_in="OpenAI's lm-human-preferences",
        parts=_SAMPLED,
        find=_are_samples,
        convert=_with_best_sample,
        examples=(
            {
                "query": "What is 2+2?",
                "sample0": "It is 5.",
                "sample1": "It is 4.",
                "sample2": "Who knows.",
                "best": 1,
            },
        ),
    ),
)
