"""Request and response models of imports."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.datasets.options import LABELS, MAPPABLE, OnInvalid, ReadOptions
from app.domain.lifecycle import FailureCode, JobStatus
from app.domain.training_spec import CleanText, TemplateVariables
from app.models import Job
from app.web.pagination import Timestamp

SOURCE = (
    r"^hub:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
    r"(@[A-Za-z0-9][A-Za-z0-9._/-]{0,254})?$"
)
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$"
Column = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ImportCreate(BaseModel):
    """Split of a hub dataset, and options for reading its rows."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    source: str = Field(
        pattern=SOURCE,
        description="`hub:org/name@revision`: a dataset of the operator's hub; the revision is a "
        "branch, tag or commit, by default `main`.",
        examples=["hub:HuggingFaceH4/ultrafeedback_binarized@main"],
    )
    split: str = Field("train", pattern=_NAME)
    config: str | None = Field(None, pattern=_NAME, description="Needed if there are several.")
    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="Name for display. Default: the name of the source."
    )
    columns: dict[Literal[MAPPABLE], Column] = Field(  # type: ignore[valid-type]
        {}, description="Column of each part; see docs/data.md."
    )
    labels: dict[Literal[LABELS], Column] = Field(  # type: ignore[valid-type]
        {}, description="Meaning of the values of the label column."
    )
    ignore_columns: list[Column] = Field([], max_length=100)
    on_invalid: OnInvalid = "refuse"
    chat_template_kwargs: TemplateVariables = Field(
        {}, description="Variables of the chat template for all rows, as in an upload."
    )

    def read_options(self) -> ReadOptions:
        """Return the options for reading the rows."""
        return ReadOptions(
            columns=dict(self.columns),
            labels=dict(self.labels),
            ignore_columns=frozenset(self.ignore_columns),
            on_invalid=self.on_invalid,
            chat_template_kwargs=dict(self.chat_template_kwargs),
        )


class ImportFailure(BaseModel):
    """Why an import failed."""

    code: FailureCode
    detail: str
    hint: str


class ImportRead(BaseModel):
    """An import and its state."""

    object: Literal["dataset_import"] = "dataset_import"
    id: str
    source: str
    split: str
    config: str | None
    name: str | None
    status: JobStatus
    phase: str | None = Field(description="Current step of a running import.")
    dataset_id: str | None = Field(description="The dataset, once the import has succeeded.")
    failure: ImportFailure | None
    created_at: Timestamp
    finished_at: Timestamp | None

    @classmethod
    def of(cls, job: Job) -> Self:
        """Create the response from a job."""
        code = FailureCode(job.failure_code) if job.failure_code else None
        failure = None
        if code is not None and job.status == JobStatus.FAILED:
            failure = ImportFailure(
                code=code, detail=job.failure_detail or "", hint=code.failure.hint
            )
        return cls(
            id=job.id,
            source=job.spec["source"],
            split=job.spec["split"],
            config=job.spec["config"],
            name=job.name,
            status=JobStatus(job.status),
            phase=job.phase,
            dataset_id=(job.result or {}).get("dataset_id"),
            failure=failure,
            created_at=job.created_at,
            finished_at=job.finished_at,
        )
