"""Look up the resources that an evaluation names, and check that they are compatible."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.adapters.service import AdapterNotFoundError
from app.core.errors import FieldProblem
from app.datasets import service as datasets
from app.datasets.service import DatasetNotFoundError
from app.domain.evaluation import UNTRAINED, DatasetContent, EvaluationSpec
from app.domain.judging.suites import SUITES
from app.domain.plan import TrainingPlan
from app.evaluations.errors import InvalidEvaluationError
from app.models import Dataset, Job


@dataclass(frozen=True)
class Resolved:
    """The dataset, and the jobs that trained the adapters."""

    dataset: Dataset
    trained: list[Job]


def resolve(session: Session, tenant_id: str, spec: EvaluationSpec) -> Resolved:
    """Look up the dataset and the adapters that a spec names.

    Raises:
        InvalidEvaluationError: names every invalid field.
    """
    problems: list[FieldProblem] = []
    dataset = _dataset(session, tenant_id, spec, problems)
    trained = _trained(session, tenant_id, spec, problems)
    if dataset is not None:
        _check_dataset(dataset, spec, problems)
        for place, job in trained.items():
            _check_format(dataset, job, place, problems)
    _check_base_models(trained, problems)
    if problems or dataset is None:
        first = problems[0]
        raise InvalidEvaluationError(
            f"{first.loc}: {first.message}", hint=first.hint, problems=problems
        )
    return Resolved(dataset, list(trained.values()))


def _dataset(
    session: Session, tenant_id: str, spec: EvaluationSpec, problems: list[FieldProblem]
) -> Dataset | None:
    try:
        if isinstance(spec.dataset, DatasetContent):
            return datasets.get_by_content(session, tenant_id, spec.dataset.sha256)
        return datasets.get(session, tenant_id, spec.dataset)
    except DatasetNotFoundError as error:
        hint = "GET /v1/datasets lists your datasets."
        problems.append(FieldProblem("/dataset", error.code, error.detail, hint))
        return None


def _trained(
    session: Session, tenant_id: str, spec: EvaluationSpec, problems: list[FieldProblem]
) -> dict[str, Job]:
    """Return the job that trained each adapter, by the place of the adapter in the spec."""
    found: dict[str, Job] = {}
    seen: set[str] = set()
    for number, name in enumerate(spec.adapters):
        place = f"/adapters/{number}"
        if name in seen:
            problems.append(FieldProblem(place, "duplicate", f"{name} is named twice", "Omit it."))
            continue
        seen.add(name)
        if name == UNTRAINED:
            continue
        try:
            adapter = adapters.get(session, tenant_id, name)
        except AdapterNotFoundError as error:
            hint = "GET /v1/adapters lists your adapters."
            problems.append(FieldProblem(place, error.code, error.detail, hint))
            continue
        if adapter.summary.get("is_merged"):
            message = f"{name} is a merged export"
            hint = "Evaluate the adapter that it was merged from: its scores are the same."
            problems.append(FieldProblem(place, "adapter_merged", message, hint))
            continue
        found[place] = session.get_one(Job, adapter.job_id)
    if seen == {UNTRAINED}:
        hint = "Name an adapter as well: it determines the base model and the tokenisation."
        problems.append(FieldProblem("/adapters", "no_adapter", "no adapter is named", hint))
    return found


def _check_dataset(dataset: Dataset, spec: EvaluationSpec, problems: list[FieldProblem]) -> None:
    summary = dataset.summary
    if spec.suite is not None:
        suite = SUITES.get(spec.suite)
        row_form = summary.get("row_form", "pairs")
        if suite is None:
            hint = f"Use one of {', '.join(SUITES)}."
            problems.append(FieldProblem("/suite", "unknown_suite", "there is no such suite", hint))
        elif suite.row_form != row_form:
            problems.append(
                FieldProblem(
                    "/dataset",
                    "wrong_row_form",
                    f"its rows are {row_form}; {suite.id} needs {suite.row_form} rows",
                    f"Upload the rows of {suite.source} as they are published.",
                )
            )
    for number, name in enumerate(spec.slices or ()):
        if name not in summary["slices"]:
            known = ", ".join(list(summary["slices"])[:10]) or "none"
            problems.append(
                FieldProblem(
                    f"/slices/{number}",
                    "unknown_slice",
                    f"the dataset has no slice {name!r}",
                    f"Its slices: {known}.",
                )
            )


def _check_format(
    dataset: Dataset, job: Job, place: str, problems: list[FieldProblem]
) -> None:  # fmt: skip
    """Check that the adapter can score the rows: texts can become messages, but not vice versa."""
    trained_on = TrainingPlan.model_validate(job.plan).data.format
    given = dataset.summary["format"]
    if trained_on == given:
        return
    is_plain = dataset.summary["prompt"] == "explicit" and not dataset.summary["is_rendered"]
    if given == "text" and is_plain:
        return
    problems.append(
        FieldProblem(
            place,
            "format_differs",
            f"it was trained on {trained_on} data, but the dataset is {given}",
            "Use a dataset of the same format. Adapters that were trained on conversations also "
            "accept texts if every row has its own prompt.",
        )
    )


def _check_base_models(trained: dict[str, Job], problems: list[FieldProblem]) -> None:
    plans = {place: TrainingPlan.model_validate(job.plan) for place, job in trained.items()}
    first = next(iter(plans.values()), None)
    for place, plan in plans.items():
        if first is not None and plan.base_model.digest != first.base_model.digest:
            problems.append(
                FieldProblem(
                    place,
                    "base_model_differs",
                    f"its base model is {plan.base_model.id}, but that of the first adapter is "
                    f"{first.base_model.id}",
                    "Request an evaluation for each base model, and compare them with "
                    "GET /v1/comparisons.",
                )
            )
