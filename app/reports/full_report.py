"""The report of a training job, as a document and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.domain.metric_names import EVAL, TOKENS, before, eval_group
from app.job_queue import queries
from app.models import Adapter, Job
from app.reports.curves import curve_svg
from app.reports.judging_sections import model_sections, overview, worst_section
from app.reports.page import Page, Plot, Section, Table, key_values
from app.web.pagination import rfc3339

CURVE_POINTS = 300
#: What a run reports of a dataset that it was not evaluated on.
NOTHING: Mapping[str, Any] = {"plots": {}, "model": None, "baselines": {}, "worst_pairs": []}
#: What the table of all named evaluation datasets shows.
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
    metrics = adapter.metrics if adapter else {}
    plan = job.plan or {}
    named = list(plan.get("data", {}).get("eval_datasets", {}))
    return {
        "object": "job_report_page",
        "job_id": job.id,
        "name": job.name,
        "status": job.status,
        "finished_at": job.finished_at and rfc3339(job.finished_at),
        "curves": _curves(session, job.id, named),
        **_of_dataset(run, metrics, EVAL),
        "eval_datasets": {
            name: _figures(metrics, name)
            # Reports of earlier versions have the figures only.
            | _of_dataset(
                run.get("eval_datasets", {}).get(name, NOTHING), metrics, eval_group(name)
            )
            for name in named
        },
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


def _of_dataset(
    found: Mapping[str, Any], metrics: Mapping[str, float], group: str
) -> dict[str, Any]:
    """Return what the run found on a dataset, with the untrained model as one more baseline."""
    baselines = dict(found["baselines"])
    untrained = metrics.get(f"{before(group)}/accuracy")
    if baselines and untrained is not None:
        baselines["untrained"] = {"accuracy": {"value": untrained, "interval": None}}
    return {**{name: found[name] for name in NOTHING}, "baselines": baselines}


def _figures(metrics: Mapping[str, float], name: str) -> dict[str, float | None]:
    """Return the figures of a named evaluation dataset after training."""
    return {figure: metrics.get(f"{eval_group(name)}/{figure}") for figure in NAMED_FIGURES}


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
    curves, named, data = document["curves"], document["eval_datasets"], document["data"] or {}
    last = [(_curve_title(name), *points[-1]) for name, points in curves.items() if points]
    pairs = data.get("pairs") or {}
    sections = [
        Section(
            "Training",
            warnings=list(document["warnings"]),
            tables=[Table("Last values", ("", "step", "value"), last)],
            plots=[*_plots(curves, "train"), *_plots(curves, EVAL)],
        )
    ]
    if model := document["model"]:
        model = {**model, "adapter": "Adapter on held-out pairs"}
        sections.append(overview([model], document["baselines"]))
        (main,) = model_sections(model, document["plots"], [], length_unit=TOKENS)
        main.notes += _limits(pairs, pairs.get("eval"))
        sections.append(main)
        if document["worst_pairs"]:
            sections.append(worst_section("Worst pairs", document["worst_pairs"]))
    if named:
        sections.append(_named(named))
    for name, found in named.items():
        sections += _of_named(name, found, _plots(curves, eval_group(name)), pairs)
    if data:
        sections.append(_data(data))
    sections.append(_provenance(document))
    title = f"Report of {document['name'] or document['job_id']}"
    return Page(title, sections)


def _plots(curves: Mapping[str, Sequence[tuple[float, float]]], group: str) -> list[Plot]:
    return [
        Plot(_curve_title(name), curve_svg(points))
        for name, points in curves.items()
        if name.startswith(f"{group}/") and points[1:]
    ]


def _curve_title(name: str) -> str:
    """Return what a curve shows: ``eval/loss`` is the loss on the held-out pairs."""
    group, _, figure = name.partition("/")
    rows = {"train": "training pairs", EVAL: "held-out pairs"}
    return f"{figure.capitalize()} on {rows.get(group, group.removeprefix(f'{EVAL}_'))}"


def _of_named(
    name: str, found: Mapping[str, Any], curves: Sequence[Plot], pairs: Mapping[str, Any]
) -> list[Section]:
    """Return the sections of a named evaluation dataset: those of the eval_dataset, in one."""
    heading = f"Evaluation dataset {name}"
    if found["model"] is None:
        return [Section(heading, plots=[*curves])] if curves else []
    model = {**found["model"], "adapter": f"Adapter on {name}"}
    (main,) = model_sections(model, found["plots"], [], length_unit=TOKENS)
    comparison = overview([model], found["baselines"])
    main.heading = heading
    main.notes += [*comparison.notes, *_limits(pairs, pairs.get("eval_datasets", {}).get(name))]
    main.tables = [*comparison.tables, *main.tables]
    main.plots = [*curves, *main.plots]
    if not found["worst_pairs"]:
        return [main]
    return [main, worst_section(f"Worst pairs of {name}", found["worst_pairs"])]


def _limits(pairs: Mapping[str, Any], counts: Mapping[str, Any] | None) -> list[str]:
    """Return for which pairs the figures hold; nothing for reports of earlier versions."""
    if counts is None:
        return []
    share = counts["left_out_share"]
    if not share:
        return [f"Measured on all {counts['used']} pairs."]
    return [
        f"Measured on {counts['used']} pairs of at most {pairs['max_length']} tokens. {share:.1%} "
        "of the pairs are longer or could not be rendered, and were left out: the figures do not "
        "hold for them."
    ]


def _named(figures: Mapping[str, Mapping[str, Any]]) -> Section:
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
            *([_pair_counts(data["pairs"])] if data.get("pairs") else []),
            Table("Findings", ("", "rows", "first lines"), findings),
            Table("Tokens", ("", "texts", "mean", "median", "99 %", "longest"), tokens),
        ],
    )


def _pair_counts(pairs: Mapping[str, Any]) -> Table:
    """Return what became of the pairs of each dataset."""
    parts = {"training": pairs["train"], "evaluation": pairs["eval"]}
    parts |= {f"evaluation ({name})": part for name, part in pairs.get("eval_datasets", {}).items()}
    rows = []
    for name, part in parts.items():
        if part is not None:
            dropped = part.get("dropped", {})
            rows.append(
                (
                    name, part.get("uploaded"),
                    *(dropped.get(reason) for reason in ("unrenderable", "overlong", "not_drawn")),
                    part.get("truncated"), part.get("held_out"), part["used"],
                    part.get("left_out_share"),
                )
            )  # fmt: skip
    columns = (
        "dataset", "uploaded", "not rendered", "too long", "not drawn", "cut", "held out", "used",
        "share left out",
    )  # fmt: skip
    return Table("Pairs", columns, rows)


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
