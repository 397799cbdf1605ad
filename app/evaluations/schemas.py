"""Request and response models of evaluations, suites and comparisons."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.domain.evaluation import EvaluationSpec
from app.domain.judging.suites import Suite
from app.domain.lifecycle import Phase
from app.job_queue.job_view import JobFailure, JobProgress, ShownStatus, job_fields
from app.job_queue.queries import JobRow
from app.web.pagination import Timestamp


class EvaluationItem(BaseModel):
    """An evaluation in a list."""

    object: Literal["evaluation"] = "evaluation"
    id: str
    name: str | None
    status: ShownStatus
    phase: Phase | None = Field(description="The current activity of a running evaluation.")
    progress: JobProgress = Field(description="Steps are scored replies.")
    base_model: str
    adapters: list[str]
    dataset: str
    suite: str | None
    attempt: int
    queued_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    failure: JobFailure | None

    @classmethod
    def of(cls, row: JobRow) -> Self:
        """Return the representation of the evaluation's job."""
        return cls(**_fields(row))


class EvaluationRead(EvaluationItem):
    """An evaluation with its spec and result."""

    spec: EvaluationSpec
    result: dict[str, Any] | None = Field(
        description="`metrics`, `suite`, `probes`, `left_out`, `truncated` and `training_overlap` "
        "of each model, and the `baselines` random, longest and shortest. Null until the "
        "evaluation succeeds. docs/judging.md explains every number."
    )
    dataset_uses: int = Field(
        description="Number of succeeded evaluations of this tenant on the same rows, including "
        "this one. A held-out set loses its value if many models are selected with it."
    )

    @classmethod
    def with_result(cls, row: JobRow, uses: int) -> Self:
        """Return the representation of the evaluation's job with its result."""
        return cls(
            **_fields(row),
            spec=EvaluationSpec.model_validate(row.spec),
            result=row.result,
            dataset_uses=uses,
        )


class WorstPair(BaseModel):
    """A pair in the wrong order; texts are truncated to 1,000 characters."""

    line: int
    slice: str | None
    margin: float = Field(description="Score of the better reply minus that of the worse one.")
    chosen_score: float
    rejected_score: float
    prompt: str
    chosen: str
    rejected: str


class WorstPairs(BaseModel):
    """The pairs that each model orders wrongly by the largest margin."""

    object: Literal["worst_pairs"] = "worst_pairs"
    models: dict[str, list[WorstPair]]


class SuiteRead(BaseModel):
    """A public benchmark whose rule this service implements; you supply the rows."""

    object: Literal["suite"] = "suite"
    id: str
    title: str
    rule: str
    source: str = Field(description="Source of the rows.")
    licence: str
    row_form: str = Field(description="The row form that the dataset must have.")
    upload: dict[str, str] = Field(
        description="Query parameters of `POST /v1/datasets` for the columns that the rule needs."
    )
    counts: dict[str, int] = Field(
        description="Number of rows of the published file by slice. With other numbers the result "
        "is `complete: false` and has no `overall`."
    )
    totals: list[int] = Field(description="Rows of the published files, if slices vary.")
    is_provisional: bool = Field(
        description="Whether the rule is not yet verified against the benchmark's own code."
    )

    @classmethod
    def of(cls, suite: Suite) -> Self:
        """Return the representation of a suite."""
        return cls(
            id=suite.id,
            title=suite.title,
            rule=suite.rule,
            source=suite.source,
            licence=suite.licence,
            row_form=suite.row_form,
            upload=dict(suite.upload),
            counts=dict(suite.counts),
            totals=list(suite.totals),
            is_provisional=suite.is_provisional,
        )


class EvaluationReport(BaseModel):
    """The numbers and texts of an evaluation's report page."""

    object: Literal["evaluation_report"] = "evaluation_report"
    evaluation: EvaluationRead
    worst_pairs: dict[str, list[WorstPair]]
    plots: dict[str, dict[str, str]] = Field(description="SVG by model and name.")


class ComparedModel(BaseModel):
    """One side of a comparison."""

    evaluation: str
    adapter: str


class Difference(BaseModel):
    """Difference of the accuracies, b minus a, with its 95 % interval by prompt."""

    value: float
    interval: tuple[float, float] | None


class Disagreements(BaseModel):
    """Number of pairs that one model orders better than the other."""

    a_better: int
    b_better: int


class McNemar(BaseModel):
    """Exact two-sided McNemar test on the disagreements."""

    p: float
    mid_p: float


class PairedResult(BaseModel):
    """Two models on the same pairs."""

    pairs: int
    accuracy_a: float
    accuracy_b: float
    difference: Difference
    disagreements: Disagreements
    mcnemar: McNemar


class SliceComparison(PairedResult):
    """Two models on the pairs of a slice."""

    slice: str
    p_holm: float = Field(description="The p-value, adjusted for the number of slices.")


class ComparisonRead(PairedResult):
    """Two models on the rows that both evaluations scored."""

    model_config = ConfigDict(extra="forbid")

    object: Literal["comparison"] = "comparison"
    a: ComparedModel
    b: ComparedModel
    dataset_sha256: str
    dataset_uses: int = Field(
        description="Number of succeeded evaluations of this tenant on these rows. The more often "
        "a set is used for selection, the less its p-values mean."
    )
    rows: int
    rows_only_in_a: int
    rows_only_in_b: int
    prompts: int
    interval_method: Literal["bootstrap", "normal"]
    slices: list[SliceComparison]


def evaluation_id(job_id: str) -> str:
    """Return the id of the evaluation of a job."""
    return f"eval_{job_id.partition('_')[2]}"


def _fields(row: JobRow) -> dict[str, Any]:
    fields = job_fields(row)
    shared = EvaluationItem.model_fields.keys() & fields.keys()
    return {
        **{name: fields[name] for name in shared},
        "id": evaluation_id(row.id),
        "adapters": row.spec["adapters"],
        "dataset": row.spec["dataset"],
        "suite": row.spec.get("suite"),
    }
