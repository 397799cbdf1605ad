"""Messages of the trainer process: one JSON object per line, validated by the supervisor.

The trainer is not trusted: numbers must be finite, texts and lists are bounded, and unknown keys
are rejected.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from app.domain.lifecycle import FailureCode, Phase
from app.domain.plan import BaseModelFacts
from app.domain.warnings import WarningCode

MAX_LINE_BYTES = 4 << 20
#: Metrics of a whole run: two evaluations of each of nine datasets, and the last step.
MAX_METRICS = 512
FileName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MetricName = Annotated[str, Field(pattern=r"^[a-z0-9_]+(/[a-z0-9_.-]+){0,2}$", max_length=64)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PhaseChanged(_Message):
    """The trainer entered a phase."""

    type: Literal["phase"] = "phase"
    phase: Phase


class Stepped(_Message):
    """An optimiser step is done. ``metrics`` are the values logged at this step, by name."""

    type: Literal["step"] = "step"
    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    epoch: float = Field(ge=0)
    metrics: dict[MetricName, float] = Field(default={}, max_length=64)


class RowsDone(_Message):
    """Progress of tokenisation: ``done`` of ``total`` rows of the job."""

    type: Literal["rows"] = "rows"
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    seconds_left: float = Field(ge=0, description="Estimated.")


class Noted(_Message):
    """A note for the job's events; with ``is_warning`` it is also a warning of the job."""

    type: Literal["note"] = "note"
    code: WarningCode
    message: str = Field(max_length=2000)
    data: dict[str, JsonValue] = Field(default={}, max_length=64)
    is_warning: bool = False


class FileEntry(_Message):
    """Size and sha256 of a file that the trainer wrote."""

    name: FileName
    size: int = Field(ge=0)
    sha256: Sha256


class CheckpointSaved(_Message):
    """A complete checkpoint is in ``directory``, a subdirectory of the attempt's work directory."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=1)
    directory: FileName
    files: list[FileEntry] = Field(min_length=1, max_length=200)
    is_best: bool = False
    metrics: dict[MetricName, float] = Field(default={}, max_length=MAX_METRICS)


class Inspected(_Message):
    """The result of an inspection."""

    type: Literal["inspected"] = "inspected"
    facts: BaseModelFacts


class Reported(_Message):
    """A document of an inspection or a run, such as a dataset report."""

    type: Literal["report"] = "report"
    name: Literal["dataset", "memory", "evaluation", "worst_pairs", "full"]
    document: dict[str, JsonValue]


class Packaged(_Message):
    """The adapter is in ``directory``. It is the last message of a successful run.

    Another process creates the certificate by reloading the files.
    """

    type: Literal["packaged"] = "packaged"
    directory: FileName
    files: list[FileEntry] = Field(min_length=1, max_length=100)
    metrics: dict[MetricName, float] = Field(default={}, max_length=MAX_METRICS)
    certificate: dict[str, JsonValue] = {}
    summary: dict[str, JsonValue] = Field(default={}, description="reward_model.json")


class Verified(_Message):
    """A new process loaded the packaged files, and they gave the same scores as after training."""

    type: Literal["verified"] = "verified"
    certificate: dict[str, JsonValue]


class Evaluated(_Message):
    """The scores are in ``directory``. It is the last message of a successful evaluation."""

    type: Literal["evaluated"] = "evaluated"
    directory: FileName
    files: list[FileEntry] = Field(min_length=1, max_length=100)
    result: dict[str, JsonValue]


class Stopped(_Message):
    """The trainer stopped on request at ``step``, after it saved a checkpoint."""

    type: Literal["stopped"] = "stopped"
    step: int = Field(ge=0)


class Failed(_Message):
    """The run or the inspection failed."""

    type: Literal["failed"] = "failed"
    code: FailureCode
    detail: str = Field(max_length=8000)
    step: int | None = None


Message = Annotated[
    PhaseChanged
    | Stepped
    | RowsDone
    | Noted
    | CheckpointSaved
    | Inspected
    | Reported
    | Packaged
    | Verified
    | Evaluated
    | Stopped
    | Failed,
    Field(discriminator="type"),
]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
