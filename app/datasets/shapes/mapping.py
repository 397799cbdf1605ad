"""Column mapping: the caller names the column of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.datasets.options import ReadOptions
from app.datasets.row_errors import FileError, shown
from app.datasets.shapes.forms import Form
from app.datasets.shapes.labels import (
    Label,
    Named,
    Scores,
    Signed,
    Winner,
    label_text,
    names_of_sides,
)
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import SYSTEM, TOOLS, Parts, Shape

MAPPED = "mapped"
_SIDES = ("chosen", "rejected")
_RESPONSES = ("response_a", "response_b")
_VERDICTS = ("label", "score_a", "score_b")
_RANKED = ("answers", "scores", "ranks")
#: Parts that belong together; a mapping without them adds parts to a shape that is recognised.
_GROUPED = frozenset({*_SIDES, *_RESPONSES, *_VERDICTS, *_RANKED})


def mapped_shape(options: ReadOptions, sample: Sample) -> Shape:
    """Return the shape that ``columns[…]`` describes.

    A part that is not mapped uses the column with its own name: ``columns[prompt]=question`` is
    enough for a file with the columns ``question``, ``chosen`` and ``rejected``.

    Raises:
        FileError: ``invalid_mapping``, ``missing_column`` or ``unknown_column``.
    """
    mapped = options.columns
    if options.labels and not {*_RESPONSES, "label"} & mapped.keys():
        raise FileError(
            "invalid_mapping",
            "labels[…] says what the values of a label mean, and no column is mapped to it",
            "add columns[response_a]=…, columns[response_b]=… and columns[label]=…",
        )
    check_columns(mapped, sample)
    return Shape(
        name=MAPPED,
        summary="Columns as the upload's columns[…] name them.",
        parts=_parts(mapped, options.labels, sample),
        examples=(),
    )


def check_columns(mapped: Mapping[str, str], sample: Sample) -> None:
    """Check that the file has all columns of a mapping.

    Raises:
        FileError: ``unknown_column``.
    """
    for part, column in mapped.items():
        if not sample.has(column):
            found = ", ".join(shown(name) for name in sample.columns[:20]) or "no columns"
            raise FileError(
                "unknown_column",
                f"columns[{part}]={column}: there is no such column (the file has: {found})",
                "name a column of the file; a.b is the key b of objects in the column a",
                column=column,
            )


def extended_shape(
    shape: Shape, options: ReadOptions, rename: Mapping[str, str], sample: Sample
) -> Shape | None:
    """Return a recognised shape with the few parts that ``columns[…]`` and ``labels[…]`` set.

    Return None if the mapping names replies, so that it describes the row alone, or if the shape
    has no label that ``labels[…]`` could explain. ``rename`` has the new names of columns.

    Raises:
        FileError: as in ``mapped_shape``.
    """
    parts, mapped = shape.parts_in(sample), options.columns
    if _GROUPED & mapped.keys() or parts.is_verbatim:
        return None
    if options.labels:
        if not isinstance(parts.label, Named):
            return None
        names = _names(options.labels, parts.label.names)
        parts = replace(parts, label=replace(parts.label, names=names))
    if "margin" in mapped and (parts.answers or isinstance(parts.label, Signed)):
        _refuse_others({**mapped, "answers": ""}, "answers", ("margin",))
    columns: dict[str, Any] = {
        part: (rename.get(column, column),) for part, column in mapped.items()
    }
    return replace(shape, name=MAPPED, parts=replace(parts, **columns), find=None, examples=())


def _parts(mapped: Mapping[str, str], labels: Mapping[str, str], sample: Sample) -> Parts:
    def own(part: str) -> tuple[str, ...]:
        return (mapped[part],) if part in mapped else (part,)

    common = Parts(
        system=own("system") if "system" in mapped else SYSTEM,
        tools=own("tools") if "tools" in mapped else TOOLS,
        history=own("history"),
        prompt=own("prompt"),
        input=own("input") if "input" in mapped else (),
        margin=own("margin"),
        slice=own("slice"),
        id=own("id") if "id" in mapped else (),
        chat_template_kwargs=own("chat_template_kwargs"),
    )
    if any(part in mapped for part in _RANKED):
        return _ranked(common, mapped, sample)
    if {*_RESPONSES, *_VERDICTS} & mapped.keys():
        return _labelled(common, mapped, labels, sample)
    for part in _SIDES:
        if part not in mapped and not sample.has(part):
            raise _incomplete(part, "a pair needs chosen and rejected")
    return replace(common, chosen=own("chosen"), rejected=own("rejected"))


def _ranked(common: Parts, mapped: Mapping[str, str], sample: Sample) -> Parts:
    first = next(part for part in _RANKED if part in mapped)
    _refuse_others(mapped, first, (*_SIDES, *_RESPONSES, *_VERDICTS, "margin"))
    answers = (mapped.get("answers", "answers"),)
    if not sample.has(answers[0]):
        raise _incomplete("answers", "answers go together with scores or ranks")
    if "ranks" in mapped:
        _refuse_others(mapped, "ranks", ("scores",))
        return replace(common, answers=answers, ranks=(mapped["ranks"],))
    are_texts = Form.TEXTS in sample.forms(answers[0])
    has_scores = "scores" in mapped or (are_texts and sample.has("scores"))
    scores = (mapped.get("scores", "scores"),) if has_scores else ()
    return replace(common, answers=answers, scores=scores)


def _labelled(
    common: Parts, mapped: Mapping[str, str], labels: Mapping[str, str], sample: Sample
) -> Parts:
    _refuse_others(mapped, "response_a", _SIDES)
    are_scored = "score_a" in mapped or "score_b" in mapped
    if are_scored:
        _refuse_others(mapped, "score_a", ("label",))
    together = (*_RESPONSES, *(_VERDICTS[1:] if are_scored else _VERDICTS[:1]))
    for part in together:
        if part not in mapped and not sample.has(part):
            raise _incomplete(part, f"{', '.join(together)} go together")
    a, b, *verdict = (mapped.get(part, part) for part in together)
    label = Scores(*verdict) if are_scored else _label(verdict[0], labels, (a, b), sample)
    if isinstance(label, Signed):
        _refuse_others(mapped, "label", ("margin",))
    return replace(common, response_a=(a,), response_b=(b,), label=label)


def _label(column: str, labels: Mapping[str, str], sides: tuple[str, str], sample: Sample) -> Label:
    if labels.get("b") in ("positive", "negative") or labels.get("a") in ("positive", "negative"):
        positive = labels.get("b") == "positive" or labels.get("a") == "negative"
        return Signed(column, positive="b" if positive else "a")
    known = names_of_sides(*sides, sample.values(column))
    return Named(column, _names(labels, known))


def _names(labels: Mapping[str, str], known: Mapping[str, Winner]) -> Mapping[str, Winner]:
    """Return the values that ``labels[…]`` lists, also in lower case, and what each means.

    They replace the known values, unless they name only ties.
    """
    names: dict[str, Winner] = {}
    winners: tuple[Winner, ...] = ("a", "b", "tie")
    for winner in winners:
        for value in labels.get(winner, "").split(","):
            if value.strip():
                names.setdefault(label_text(value).lower(), winner)
                names[label_text(value)] = winner
    return names if "a" in labels or "b" in labels else {**known, **names}


def _refuse_others(mapped: Mapping[str, str], part: str, others: tuple[str, ...]) -> None:
    if both := [other for other in others if other in mapped]:
        raise FileError(
            "invalid_mapping",
            f"columns[{part}] and columns[{both[0]}] exclude each other",
            "map chosen and rejected; or response_a, response_b and label (or score_a and "
            "score_b); or answers. Ranked rows have no margin, and the size of a signed label is "
            "one",
        )


def _incomplete(part: str, why: str) -> FileError:
    return FileError(
        "missing_column",
        f"no column is {part}: {why}",
        f"add columns[{part}]=…",
        column=part,
    )
