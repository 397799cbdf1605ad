"""Report sections about evaluated models, from the documents that evaluations store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.domain.judging.probes import SUSPICIOUS_LOSS
from app.domain.metric_names import CHARACTERS
from app.reports.page import Plot, Section, Table

CAPTIONS = {
    "margins": "Margins",
    "calibration": "Calibration",
    "length": "Score against length",
    "best_of_n": "Best of n",
}
_LEFT_OUT = {
    "overlong": "longer than the adapter's max_length",
    "not_rendered": "the chat template cannot render them",
    "no_tokens": "a reply has no tokens",
    "ends_in_pad_token": "a reply ends in the pad token",
    "not_embedded": "a token is beyond the rows of the model's embedding",
}


def overview(models: Sequence[Mapping[str, Any]], baselines: Mapping[str, Any]) -> Section:
    """Return a table of all models and baselines."""
    rows = [_overview_row(model["adapter"], model["metrics"]) for model in models]
    rows += [
        (name, *_value(found["accuracy"]), *[None] * 7) for name, found in baselines.items()
    ]  # fmt: skip
    columns = (
        "model", "accuracy", "from", "to", "strict", "ties", "balanced for length",
        "controlled for length", "ECE", "temperature", "recovery",
    )  # fmt: skip
    # Without gold scores no model has a recovery, for example.
    there = [place for place, cells in enumerate(zip(*rows, strict=True)) if any(
        cell is not None for cell in cells
    )]  # fmt: skip
    shown = [[row[place] for place in there] for row in rows]
    return Section(
        "Models and baselines",
        notes=[
            "Accuracy counts a tie as half; its 95 % interval (from, to) resamples prompts. "
            "random, longest and shortest score without a model; untrained is the "
            "model before training."
        ],
        tables=[Table("All pairs", [columns[place] for place in there], shown)],
    )


def model_sections(
    model: Mapping[str, Any],
    plots: Mapping[str, str],
    worst: Sequence[Mapping[str, Any]],
    length_unit: str = CHARACTERS,
) -> list[Section]:
    """Return the sections of one model; ``length_unit`` says what its lengths count."""
    metrics, name = model["metrics"], model["adapter"]
    main = Section(
        name,
        tables=[_figures(metrics), _length(metrics["length"], length_unit)],
        plots=[Plot(CAPTIONS.get(key, key), svg) for key, svg in plots.items()],
    )
    if "left_out" in model:
        main.tables.append(_left_out(model))
    if overlap := model.get("training_overlap"):
        found = main.warnings if overlap["rows"] else main.notes
        found.append(
            f"The prompts of {overlap['rows']} rows ({overlap['share']:.1%}) are in the training "
            "data."
        )
    if metrics["slices"]:
        main.tables.append(
            Table(
                "Slices",
                ("slice", "pairs", "accuracy", "from", "to"),
                [(s["slice"], s["pairs"], *_value(s["accuracy"])) for s in metrics["slices"]],
            )
        )
    if metrics["best_of_n"]:
        curve = metrics["best_of_n"]["curve"]
        main.tables.append(
            Table(
                "Best of n: mean gold score of the pick",
                ("n", "this model", "best possible"),
                [(point["k"], point["gold"], point["best"]) for point in curve],
            )
        )
    if suite := model.get("suite"):
        _add_suite(main, suite)
    if model.get("probes"):
        _add_probes(main, model["probes"])
    sections = [main]
    if worst:
        sections.append(worst_section(f"Worst pairs of {name}", worst))
    return sections


def worst_section(heading: str, worst: Sequence[Mapping[str, Any]]) -> Section:
    """Return the pairs in the wrong order, with their texts."""
    pairs = [
        {
            "line": pair["line"],
            "margin": pair["margin"],
            "slice": pair["slice"],
            "texts": [
                (f"{label}{_score(pair, label)}", pair[label])
                for label in ("prompt", "chosen", "rejected")
                if pair.get(label)
            ],
        }
        for pair in worst
    ]
    return Section(
        heading, notes=["Pairs in the wrong order, with the largest margins first."], pairs=pairs
    )


def comparison_section(found: Mapping[str, Any]) -> Section:
    """Return a comparison of two models."""
    difference, test = found["difference"], found["mcnemar"]
    main = [
        ("pairs", found["pairs"]), ("prompts", found["prompts"]),
        ("accuracy of a", found["accuracy_a"]), ("accuracy of b", found["accuracy_b"]),
        ("difference, b minus a", difference["value"]),
        ("95 % interval, from", (difference["interval"] or [None])[0]),
        ("95 % interval, to", (difference["interval"] or [None])[-1]),
        ("pairs that only a orders better", found["disagreements"]["a_better"]),
        ("pairs that only b orders better", found["disagreements"]["b_better"]),
        ("McNemar, exact p", test["p"]), ("McNemar, mid-p", test["mid_p"]),
        ("rows only in a", found["rows_only_in_a"]), ("rows only in b", found["rows_only_in_b"]),
        ("evaluations on these rows so far", found["dataset_uses"]),
    ]  # fmt: skip
    slices = [
        (s["slice"], s["pairs"], s["accuracy_a"], s["accuracy_b"], *_value(s["difference"]),
         s["mcnemar"]["p"], s["p_holm"])
        for s in found["slices"]
    ]  # fmt: skip
    columns = ("slice", "pairs", "a", "b", "difference", "from", "to", "p", "p (Holm)")
    return Section(
        "Comparison",
        notes=["The interval resamples prompts; McNemar's test assumes independent pairs."],
        tables=[
            Table("All pairs", ("", ""), main),
            Table("Slices", columns, slices),
        ],
    )


def _overview_row(name: str, metrics: Mapping[str, Any]) -> tuple[Any, ...]:
    length, calibration = metrics["length"], metrics["calibration"]
    return (
        name,
        *_value(metrics["accuracy"]),
        metrics["accuracy_strict"],
        metrics["ties"],
        length["balanced"] and length["balanced"]["value"],
        length["controlled"]["value"],
        calibration["ece"],
        calibration["temperature"],
        metrics["best_of_n"] and metrics["best_of_n"]["recovery"],
    )


def _figures(metrics: Mapping[str, Any]) -> Table:
    margin, reward, calibration = metrics["margin"], metrics["reward"], metrics["calibration"]
    rows = [
        ("rows", metrics["rows"]), ("pairs", metrics["pairs"]), ("prompts", metrics["prompts"]),
        ("mean margin", margin["mean"]), ("standard deviation of margins", margin["std"]),
        ("margin, 5 %", margin["low"]), ("margin, median", margin["median"]),
        ("margin, 95 %", margin["high"]), ("mean score", reward["mean"]),
        ("standard deviation of scores", reward["std"]),
        ("… within a prompt", reward["within_prompt_std"]),
        ("ECE", calibration["ece"]), ("Brier score", calibration["brier"]),
        ("best temperature", calibration["temperature"]),
        ("ECE at that temperature", calibration["ece_at_temperature"]),
    ]  # fmt: skip
    return Table("Figures", ("", ""), rows)


def _length(length: Mapping[str, Any], unit: str) -> Table:
    rows: list[tuple[Any, ...]] = [
        ("rank correlation of score and length", length["spearman"], None, None),
        ("… within a prompt", length["within_prompt_spearman"], None, None),
    ]
    names = {
        "shorter_chosen": "accuracy where the better reply is shorter",
        "longer_chosen": "accuracy where it is longer",
        "balanced": "mean of both",
        "controlled": "accuracy between replies of equal length (fit)",
    }
    for key, name in names.items():
        rows.append((name, *(_value(length[key]) if length[key] else (None, None, None))))
    return Table(f"Length in {unit}", ("", "value", "from", "to"), rows)


def _left_out(model: Mapping[str, Any]) -> Table:
    rows: list[tuple[Any, ...]] = [
        (_LEFT_OUT.get(reason, reason), found["rows"], ", ".join(map(str, found["lines"])))
        for reason, found in model["left_out"].items()
    ]
    cut = model["truncated"]
    if cut["rows"]:
        rows.append(("cut at max_length", cut["rows"], ", ".join(map(str, cut["lines"]))))
    columns = ("reason", "rows", "first lines")
    return Table("Rows left out or cut", columns, rows or [("none", 0, None)])


def _add_suite(section: Section, suite: Mapping[str, Any]) -> None:
    rows = list(suite["metrics"].items())
    rows.append(("overall", suite["overall"]))
    section.tables.append(Table(suite["suite"], ("", "share"), rows))
    if not suite["complete"]:
        section.warnings.append(
            "The rows are not the published ones, so there is no overall: " + suite["problems"][0]
        )


def _add_probes(section: Section, probes: Sequence[Mapping[str, Any]]) -> None:
    columns = (
        "probe", "pairs", "shift", "flips", "accuracy", "both changed", "worse reply changed",
        "loss", "from", "to", "suspicious",
    )  # fmt: skip
    rows = [
        (p["probe"], p["pairs"], p["shift"], p["flip_rate"], p["accuracy"], p["accuracy_both"],
         p["accuracy_attacked"], *(_value(p["loss"]) if p["loss"] else (None, None, None)),
         p["is_suspicious"] if p["loss"] else None)
        for p in probes
    ]  # fmt: skip
    caption = (
        "Probes for reward hacking; suspicious if the interval of the loss is above "
        f"{SUSPICIOUS_LOSS}"
    )
    section.tables.append(Table(caption, columns, rows))


def _value(found: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    low, high = found["interval"] or (None, None)
    return found["value"], low, high


def _score(pair: Mapping[str, Any], label: str) -> str:
    score = pair.get(f"{label}_score")
    return "" if score is None else f", score {score:.4g}"
