"""Reports of evaluations and comparisons, as documents and as pages."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.domain.evaluation import UNTRAINED
from app.evaluations import service
from app.evaluations.errors import EvaluationUnfinishedError
from app.evaluations.schemas import ComparisonRead, EvaluationRead, EvaluationReport
from app.job_queue import queries
from app.reports.judging_sections import comparison_section, model_sections, overview
from app.reports.page import Page, Section, key_values


def evaluation_document(session: Session, tenant_id: str, evaluation: str) -> EvaluationReport:
    """Return the evaluation with its worst pairs and its plots (SVG by model and name).

    Raises:
        EvaluationNotFoundError, EvaluationUnfinishedError
    """
    job = service.get(session, tenant_id, evaluation)
    if job.result is None:
        raise EvaluationUnfinishedError(f"{evaluation} is {job.status}, so it has no result.")
    found = EvaluationRead.with_result(job, service.dataset_uses(session, job))
    connection = session.connection()
    reports = {
        name: queries.report(connection, job.id, name) or {} for name in ("worst_pairs", "full")
    }
    return EvaluationReport(
        evaluation=found,
        worst_pairs=reports["worst_pairs"].get("models", {}),
        plots=reports["full"].get("plots", {}),
    )


def evaluation_page(report: EvaluationReport) -> Page:
    """Return the report page of an evaluation."""
    document = report.model_dump(mode="json")
    evaluation = document["evaluation"]
    result = evaluation["result"]
    about = {
        "evaluation": evaluation["id"], "dataset": evaluation["dataset"],
        "suite": evaluation["suite"], "base model": evaluation["base_model"],
        "rows": result["rows"], "seed": evaluation["spec"]["seed"],
        "evaluations on these rows so far": evaluation["dataset_uses"],
        "finished": evaluation["finished_at"],
    }  # fmt: skip
    # The untrained head comes last, and nobody learns from the pairs that it orders wrongly.
    models = sorted(result["models"], key=lambda model: model["adapter"] == UNTRAINED)
    sections = [
        overview(models, result["baselines"]),
        Section("About", tables=[key_values("This evaluation", about)]),
    ]
    for model in models:
        name = model["adapter"]
        worst = [] if name == UNTRAINED else document["worst_pairs"].get(name, [])
        sections += model_sections(model, document["plots"].get(name, {}), worst)
    return Page(f"Evaluation {evaluation['name'] or evaluation['id']}", sections)


def comparison_page(found: ComparisonRead) -> Page:
    """Return the report page of a comparison."""
    sides = {
        f"{side} ({name})": value
        for side, model in (("a", found.a), ("b", found.b))
        for name, value in model.model_dump().items()
    }
    sides["sha256 of the dataset"] = found.dataset_sha256
    sections = [
        comparison_section(found.model_dump(mode="json")),
        Section("About", tables=[key_values("The two models", sides)]),
    ]
    return Page("Comparison of two reward models", sections)
