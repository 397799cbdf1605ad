"""Plots of a report, as SVG text with the same bytes for the same numbers."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from app.domain.judging.score_table import ScoredRow
from app.domain.metric_names import CHARACTERS

#: Maximum number of points in a scatter plot; more would enlarge the file without a benefit.
MAX_POINTS = 400
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "plaudit",  # ids of clip paths do not vary
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_SIZE = (4.6, 3.0)  # inches


def model_plots(
    rows: Sequence[ScoredRow],
    metrics: Mapping[str, Any],
    length_unit: str = CHARACTERS,
) -> dict[str, str]:
    """Return the plots of one model: margins, calibration, length and best of n.

    ``length_unit`` says what the lengths of the rows count.
    """
    plots = {
        "margins": _margins(metrics["margin"]),
        "calibration": _calibration(metrics["calibration"]),
        "length": _length(rows, length_unit),
    }
    if metrics["best_of_n"] is not None:
        plots["best_of_n"] = _best_of_n(metrics["best_of_n"])
    return plots


def _margins(margin: Mapping[str, Any]) -> str:
    figure, axes = _figure("margin: score of the better reply minus that of the worse", "pairs")
    edges = np.array(margin["histogram"]["edges"])
    colors = np.where(edges[:-1] < 0, "#c0392b", "#2a7f62")
    axes.bar(edges[:-1], margin["histogram"]["counts"], np.diff(edges), align="edge", color=colors)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5))  # small margins have long labels
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _svg(figure)


def _calibration(calibration: Mapping[str, Any]) -> str:
    figure, axes = _figure("confidence, sigmoid(|margin|)", "share in the right order")
    bins = calibration["bins"]
    axes.plot([0.5, 1], [0.5, 1], color="grey", linewidth=0.8, linestyle="--")
    axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], marker="o")
    axes.set_xlim(0.5, 1)
    axes.set_ylim(0, 1.02)
    return _svg(figure)


def _length(rows: Sequence[ScoredRow], unit: str) -> str:
    figure, axes = _figure(f"length: {unit}", "score")
    for is_best, color, label in ((True, "#2a7f62", "best"), (False, "#c0392b", "others")):
        points = [
            (length, score)
            for row in rows
            for rank, length, score in zip(row.ranks, row.lengths, row.scores, strict=True)
            if (rank == 1) == is_best
        ]
        step = -(-len(points) // MAX_POINTS) or 1
        x, y = zip(*points[::step], strict=True) if points else ((), ())
        axes.scatter(x, y, s=8, alpha=0.6, color=color, label=label, linewidths=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.legend(frameon=False, loc="outside upper right", ncols=2, markerscale=2)
    return _svg(figure)


def _best_of_n(found: Mapping[str, Any]) -> str:
    figure, axes = _figure("replies to pick from", "mean gold score of the pick")
    k = [point["k"] for point in found["curve"]]
    axes.plot(k, [point["gold"] for point in found["curve"]], marker="o", label="this model")
    axes.plot(k, [point["best"] for point in found["curve"]], linestyle="--", label="best possible")
    axes.set_xscale("log", base=2)
    axes.set_xticks(k, [str(each) for each in k])
    axes.legend(frameon=False)
    return _svg(figure)


def _figure(x_label: str, y_label: str) -> tuple[Figure, Any]:
    # Its info messages about fonts would fill the trainer's log.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # Remove the XML prologue, which is valid only at the start of a separate file.
    text = out.getvalue()
    return text[text.index("<svg") :]
