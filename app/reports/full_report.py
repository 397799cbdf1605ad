"""The report of a training job, as a document and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.domain.metric_names import EVAL, eval_group
from app.job_queue import queries
from app.models import Adapter, Job
from app.reports.curves import curve_svg
from app.reports.judging_sections import model_sections, overview, worst_section
from app.reports.page import Page, Plot, Section, Table, key_values
from app.web.pagination import rfc3339

CURVE_POINTS = 300
#: The metrics shown for each named evaluation dataset.
NAMED_FIGURES = (
    "pairs", "left_out", "accuracy", "accuracy_low", "accuracy_high", "loss", "length_baseline",
)  # fmt: skip


def job_document(session: Session, job: Job) -> dict[str, Any] | None:
    """Return the report of a job, or None until the run has created it.

    ``plots`` are SVG texts by name; everything else is numbers and texts.
    """
    connection = session.connection()
    run = queries.report(connection, job.id, "full")
    if run is None:
        return None
    adapter = session.get(Adapter, job.adapter_id) if job.adapter_id else None
    plan = job.plan or {}
    named = list(plan.get("data", {}).get("eval_datasets", {}))
    return {
        "object": "job_report_page",
        "job_id": job.id,
        "name": job.name,
        "status": job.status,
        "finished_at": job.finished_at and rfc3339(job.finished_at),
        "curves": _curves(session, job.id, named),
        **{name: run[name] for name in ("plots", "model", "baselines", "worst_pairs")},
        "eval_datasets": _named_figures(adapter.metrics if adapter else {}, named),
        "data": queries.report(connection, job.id, "dataset"),
        "warnings": [warning["message"] for warning in job.warnings],
        "provenance": {
            "spec_sha256": job.spec_sha256,
            "base_model": plan.get("base_model", {}),
            "train_dataset": plan.get("data", {}).get("train"),
            "eval_dataset": plan.get("data", {}).get("eval"),
            "eval_datasets": plan.get("data", {}).get("eval_datasets", {}),
            "lora": plan.get("lora", {}),
            "reward": plan.get("reward", {}),
            "seed": plan.get("reward", {}).get("seed"),
            "versions": (adapter.summary if adapter else {}).get("versions", {}),
            "adapter_id": job.adapter_id,
            "archive_sha256": adapter.archive_sha256 if adapter else None,
        },
        "certificate": adapter.certificate if adapter else None,
    }


def _named_figures(
    metrics: Mapping[str, float], names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Return the figures of each named evaluation dataset after training."""
    return {
        name: {figure: metrics.get(f"{eval_group(name)}/{figure}") for figure in NAMED_FIGURES}
        for name in names
    }


def _curves(
    session: Session, job_id: str, named: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    """Return (step, value) of each curve, over all attempts of the job."""
    groups = ["train", EVAL, *map(eval_group, named)]
    wanted = [f"{group}/{name}" for group in groups for name in ("loss", "accuracy")]
    columns = queries.metrics(session.connection(), job_id, wanted, 0, None, CURVE_POINTS)
    found = {}
    for name in wanted:
        points = zip(columns["step"], columns[name], strict=True)
        if curve := [(s, v) for s, v in points if s is not None and v is not None]:
            found[name] = curve
    return found


def job_page(document: Mapping[str, Any]) -> Page:
    """Return the report page of a job; ``document`` is that of ``job_document``."""
    curves = {_curve_title(name): points for name, points in document["curves"].items() if points}
    learning = [Plot(name, curve_svg(points)) for name, points in curves.items() if points[1:]]
    last = [(title, *points[-1]) for title, points in curves.items()]
    sections = [
        Section(
            "Training",
            warnings=list(document["warnings"]),
            tables=[Table("Last values", ("", "step", "value"), last)],
            plots=learning,
        )
    ]
    if model := document["model"]:
        model = {**model, "adapter": "Adapter on held-out pairs"}
        sections.append(overview([model], document["baselines"]))
        unit = "tokens of prompt and reply"
        sections += model_sections(model, document["plots"], [], length_unit=unit)
        if document["worst_pairs"]:
            sections.append(worst_section("Worst pairs", document["worst_pairs"]))
    if document["eval_datasets"]:
        sections.append(_named(document["eval_datasets"]))
    if document["data"]:
        sections.append(_data(document["data"]))
    sections.append(_provenance(document))
    title = f"Report of {document['name'] or document['job_id']}"
    return Page(title, sections)


def _curve_title(name: str) -> str:
    """Return what a curve shows: ``eval/loss`` is the loss on the held-out pairs."""
    group, _, figure = name.partition("/")
    rows = {"train": "training pairs", EVAL: "held-out pairs"}
    return f"{figure.capitalize()} on {rows.get(group, group.removeprefix(f'{EVAL}_'))}"


def _named(figures: Mapping[str, Mapping[str, float | None]]) -> Section:
    rows = [
        (name, *(of_dataset[each] for each in NAMED_FIGURES))
        for name, of_dataset in figures.items()
    ]
    columns = ("dataset", "pairs", "left out", "accuracy", "from", "to", "loss", "longer is better")
    return Section(
        "Further evaluation datasets",
        notes=["Figures after training. Accuracy does not cover the pairs that are left out."],
        tables=[Table("All pairs", columns, rows)],
    )


def _data(data: Mapping[str, Any]) -> Section:
    findings = [
        (name, found["count"], ", ".join(map(str, found["lines"][:20])))
        for name, found in data.get("findings", {}).items()
    ]
    sizes = {name: data.get(name) for name in ("rows", "eval_rows", "prompts", "max_length")}
    tokens = [
        (name, found.get("count"), found.get("mean"), found.get("p50"), found.get("p99"),
         found.get("max"))
        for name, found in data.get("tokens", {}).items()
    ]  # fmt: skip
    return Section(
        "Data",
        notes=["Pairs over max_length are left out of the training."],
        tables=[
            key_values("Sizes", sizes),
            Table("Findings", ("", "rows", "first lines"), findings),
            Table("Tokens", ("", "texts", "mean", "median", "99 %", "longest"), tokens),
        ],
    )


def _provenance(document: Mapping[str, Any]) -> Section:
    provenance = document["provenance"]
    flat: dict[str, Any] = {"job": document["job_id"], "adapter": provenance["adapter_id"]}
    inputs = {name: provenance[name] for name in ("base_model", "train_dataset", "eval_dataset")}
    inputs |= {f"eval_datasets.{k}": v for k, v in provenance["eval_datasets"].items()}
    for group, found in inputs.items():
        for key, value in (found or {}).items():
            if isinstance(value, str | int | float):
                flat[f"{group}.{key}"] = value
    flat |= {"spec sha256": provenance["spec_sha256"], "seed": provenance["seed"]}
    flat |= {f"version of {name}": value for name, value in provenance["versions"].items()}
    tables = [key_values("Inputs", flat)]
    for group in ("lora", "reward"):
        shown = {name: _text(value) for name, value in provenance[group].items()}
        tables.append(key_values(f"Arguments: {group}", shown))
    if certificate := document["certificate"]:
        shown = {k: v for k, v in certificate.items() if isinstance(v, str | int | float | bool)}
        tables.append(key_values("Certificate: scores after a reload in a fresh process", shown))
    return Section("Provenance", tables=tables)


def _text(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
