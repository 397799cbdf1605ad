"""Column mapping: the caller names the column of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from app.datasets.options import ReadOptions
from app.datasets.row_errors import FileError, shown
from app.datasets.shapes.forms import Form
from app.datasets.shapes.labels import Label, Named, Signed, Winner, names_of_sides
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import SYSTEM, Parts, Shape

MAPPED = "mapped"
_SIDES = ("chosen", "rejected")
_RESPONSES = ("response_a", "response_b")


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
    for part, column in mapped.items():
        if not sample.has(column):
            found = ", ".join(shown(name) for name in sample.columns[:20]) or "no columns"
            raise FileError(
                "unknown_column",
                f"columns[{part}]={column}: there is no such column (the file has: {found})",
                "name a column of the file; a.b is the key b of objects in the column a",
                column=column,
            )
    return Shape(
        name=MAPPED,
        summary="Columns as the upload's columns[…] name them.",
        parts=_parts(mapped, options.labels, sample),
        examples=(),
    )


def _parts(mapped: Mapping[str, str], labels: Mapping[str, str], sample: Sample) -> Parts:
    def own(part: str) -> tuple[str, ...]:
        return (mapped[part],) if part in mapped else (part,)

    common = Parts(
        system=own("system") if "system" in mapped else SYSTEM,
        history=own("history"),
        prompt=own("prompt"),
        input=own("input") if "input" in mapped else (),
        margin=own("margin"),
        slice=own("slice"),
        id=own("id") if "id" in mapped else (),
        tools=own("tools"),
        chat_template_kwargs=own("chat_template_kwargs"),
    )
    if {"answers", "scores"} & mapped.keys():
        part = "answers" if "answers" in mapped else "scores"
        _refuse_others(mapped, part, (*_SIDES, *_RESPONSES, "label", "margin"))
        if not any(map(sample.has, own("answers"))):
            raise _incomplete("answers", "answers and scores go together")
        are_texts = Form.TEXTS in sample.forms(own("answers")[0])
        has_scores = "scores" in mapped or (are_texts and sample.has("scores"))
        scores = own("scores") if has_scores else ()
        return replace(common, answers=own("answers"), scores=scores)
    if {*_RESPONSES, "label"} & mapped.keys():
        _refuse_others(mapped, "response_a", _SIDES)
        for part in (*_RESPONSES, "label"):
            if part not in mapped and not sample.has(part):
                raise _incomplete(part, "response_a, response_b and label go together")
        a, b = own("response_a"), own("response_b")
        label = _label(own("label")[0], labels, a[0], b[0])
        if isinstance(label, Signed):
            _refuse_others(mapped, "label", ("margin",))
        return replace(common, response_a=a, response_b=b, label=label)
    for part in _SIDES:
        if part not in mapped and not sample.has(part):
            raise _incomplete(part, "a pair needs chosen and rejected")
    return replace(common, chosen=own("chosen"), rejected=own("rejected"))


def _label(column: str, labels: Mapping[str, str], a: str, b: str) -> Label:
    if labels.get("b") in ("positive", "negative") or labels.get("a") in ("positive", "negative"):
        positive = labels.get("b") == "positive" or labels.get("a") == "negative"
        return Signed(column, positive="b" if positive else "a")
    names: dict[str, Winner] = {}
    winners: tuple[Winner, ...] = ("a", "b", "tie")
    for winner in winners:
        for value in labels.get(winner, "").split(","):
            if value.strip():
                names[value.strip()] = winner
    if names:
        return Named(column, names)
    return Named(column, names_of_sides(a, b))


def _refuse_others(mapped: Mapping[str, str], part: str, others: tuple[str, ...]) -> None:
    if both := [other for other in others if other in mapped]:
        raise FileError(
            "invalid_mapping",
            f"columns[{part}] and columns[{both[0]}] exclude each other",
            "map chosen and rejected; or response_a, response_b and label; or answers. Ranked rows "
            "have no margin, and the size of a signed label is one",
        )


def _incomplete(part: str, why: str) -> FileError:
    return FileError(
        "missing_column",
        f"no column is {part}: {why}",
        f"add columns[{part}]=…",
        column=part,
    )
